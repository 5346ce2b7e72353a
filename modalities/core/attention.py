"""The attention of a denoiser, open to be looked at and changed between queries and output."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from modalities.core.errors import PcsError

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values `(b, heads, n, width)` to outputs `(b, heads, n, width)`."""


@dataclass(frozen=True)
class Place:
    """One attention layer, by its name in the denoiser; `crosses` tells whether it reads text."""

    name: str
    crosses: bool
    layer: Any

    def heads(self, states: Float[Tensor, "b n width"]) -> Float[Tensor, "b heads n each"]:
        """Projected states, head by head."""
        return states.unflatten(-1, (self.layer.heads, -1)).transpose(1, 2)


Change = Callable[[Place, Attend, Tensor, Tensor, Tensor], Tensor]
"""What a place does instead of the `Attend` that it is given, with queries, keys and values."""


def maps(query: Tensor, key: Tensor) -> Float[Tensor, "b heads queries keys"]:
    """Attention maps: for each query how much it takes of each key."""
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)


def open_attention(denoiser: nn.Module, change: Change) -> Callable[[], None]:
    """Let `change` attend in every attention layer of a denoiser; return what undoes it. Later changes wrap earlier.

    Raises:
        PcsError: its attention is not that of a Stable Diffusion U-Net.
    """
    found = {name: part for name, part in denoiser.named_modules() if name.endswith(("attn1", "attn2"))}
    if not found or any(getattr(part, "added_kv_proj_dim", None) for part in found.values()):
        raise PcsError("this base has no separate self- and cross-attention to look into; use Stable Diffusion 1 or 2.")
    before: list[tuple[Any, Any]] = []
    for name, layer in found.items():
        place = Place(name, name.endswith("attn2"), layer)
        earlier: Any = layer.processor  # pyright: ignore
        before.append((layer, earlier))
        layer.processor = _Open(place, change, earlier.attend if isinstance(earlier, _Open) else _plain)  # pyright: ignore

    def close() -> None:
        for layer, earlier in before:
            layer.processor = earlier

    return close


@contextmanager
def opened(denoiser: nn.Module, change: Change) -> Generator[None]:
    """`open_attention` for a block."""
    close = open_attention(denoiser, change)
    try:
        yield
    finally:
        close()


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value)


class _Open:
    """A processor of diffusers' attention layers."""

    def __init__(self, place: Place, change: Change, inner: Attend) -> None:
        self._place, self._change, self._inner = place, change, inner

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self._change(self._place, self._inner, query, key, value)

    def __call__(
        self, layer: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads = self._place.heads
        answer = self.attend(heads(layer.to_q(hidden_states)), heads(layer.to_k(states)), heads(layer.to_v(states)))
        return layer.to_out[1](layer.to_out[0](answer.transpose(1, 2).flatten(2).to(hidden_states.dtype)))
