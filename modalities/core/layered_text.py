"""Text that is encoded anew for every cross-attention layer and every time, as P+ and NeTI need it.

A text encoder runs before the denoiser and knows neither. So it passes the token ids on in place of features, through
whatever a pipeline does with them, and the denoiser encodes them when it is asked: once for each of its layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from modalities.core.backbone import Backbone
from modalities.core.errors import PcsError
from modalities.core.vocabulary import add_changing_words

# Ids as two digits, which 16-bit floats hold exactly.
_BASE = 256


@dataclass(frozen=True)
class Words:
    """What new words are at n times in each of L layers.

    Attributes:
        embeddings: what the text encoder takes for the V words, `(n, L, V, width)`.
        bypass: what is added to what it makes of them, `(n, L, V, width)`, relative to its norm; None for nothing.
    """

    embeddings: Float[Tensor, "n layers words width"]
    bypass: Float[Tensor, "n layers words width"] | None = None


def as_features(ids: Int[Tensor, "b places"], like: Float[Tensor, "b places width"]) -> Float[Tensor, "b places width"]:
    """Ids below 65536 in features of the shape and type of `like`, from which `as_ids` reads them exactly."""
    carrier = torch.zeros_like(like)
    carrier[..., 0], carrier[..., 1] = ids // _BASE, ids % _BASE
    return carrier


def as_ids(carrier: Float[Tensor, "b places width"]) -> Int[Tensor, "b places"]:
    """What `as_features` wrote."""
    high, low = carrier[..., 0].long(), carrier[..., 1].long()
    return high * _BASE + low


class LayeredText:
    """Puts new words that change with layer and time into a base. `layers` counts its cross-attention layers.

    Raises:
        PcsError: the base has several text encoders, or no cross-attention layers to tell apart.
    """

    def __init__(self, backbone: Backbone, words: list[str], say: Callable[[Num[Tensor, " n"]], Words]) -> None:
        denoiser, encoders = backbone.denoiser, backbone.text_encoders
        crossings = [part for name, part in denoiser.named_modules() if re.search(r"(^|\.)attn2$", name)]
        if len(encoders) != 1 or not crossings:
            raise PcsError("words of their own for every layer need a base with one text encoder and cross-attention.")
        ((name, self._encoder),) = encoders.items()
        self.layers, self._say = len(crossings), say
        self._table = add_changing_words(backbone.tokenizers[name], self._encoder, words)
        self._states: list[Tensor] = []
        self._is_encoding = False
        self._encoder.register_forward_hook(self._pass_ids_on, with_kwargs=True)
        denoiser.register_forward_pre_hook(self._encode, with_kwargs=True)
        for number, crossing in enumerate(crossings):
            crossing.register_forward_pre_hook(self._give(number), with_kwargs=True)

    def _pass_ids_on(self, module: Any, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> Any:
        if not self._is_encoding:
            ids: Tensor = given["input_ids"] if "input_ids" in given else args[0]
            output.last_hidden_state = as_features(ids, output[0])
        return output

    def _encode(self, module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        carrier: Tensor = given["encoder_hidden_states"]
        ids = as_ids(carrier)
        t = torch.as_tensor(given["timestep"] if "timestep" in given else args[1], device=ids.device)
        self._states = [part.to(carrier.dtype) for part in self.encoded(ids, t.expand(len(ids)))]

    def _give(self, number: int) -> Callable[..., Any]:
        def hook(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
            return args, given | {"encoder_hidden_states": self._states[number]}

        return hook

    def encoded(self, ids: Int[Tensor, "b places"], t: Num[Tensor, " b"]) -> list[Float[Tensor, "b places width"]]:
        """What each layer is to see of prompts at their times; prompts without new words are encoded once for all."""
        is_new = ids >= self._table.first
        keys = [
            (tuple(row), float(time) if new else None)
            for row, time, new in zip(ids.tolist(), t, is_new.any(1), strict=True)
        ]
        where = {key: keys.index(key) for key in dict.fromkeys(keys)}
        plain = [place for (_, time), place in where.items() if time is None]
        told = [place for (_, time), place in where.items() if time is not None]
        rows: dict[int, Tensor] = {}
        if plain:
            made = self._through(ids[plain])
            rows |= {place: row.expand(self.layers, -1, -1) for place, row in zip(plain, made, strict=True)}
        if told:
            words = self._say(t[told])
            repeated = ids[told].repeat_interleave(self.layers, 0)
            made = self._through(repeated, words.embeddings.flatten(0, 1))
            if words.bypass is not None:
                made = self._bypassed(made, repeated, words.bypass.flatten(0, 1))
            rows |= dict(zip(told, made.unflatten(0, (len(told), self.layers)), strict=True))
        chosen = [rows[where[key]] for key in keys]
        return [torch.stack([row[number] for row in chosen]) for number in range(self.layers)]

    def _through(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Features of ids, by the text encoder itself; `rows` are the embeddings of the new words in each of them."""
        nothing, self._is_encoding = self._table.rows, True
        try:
            self._table.rows = nothing if rows is None else rows
            return self._encoder(ids)[0]
        finally:
            self._table.rows, self._is_encoding = nothing, False

    def _bypassed(self, made: Tensor, ids: Tensor, bypass: Tensor) -> Tensor:
        """Add the bypass at the places of new words, in shares of the norms there."""
        is_new = ids >= self._table.first
        places = torch.where(is_new, ids - self._table.first, 0)
        chosen = bypass[torch.arange(len(ids), device=ids.device)[:, None], places]
        added = chosen * made.norm(dim=-1, keepdim=True)
        return made + torch.where(is_new[..., None], added, torch.zeros_like(added)).to(made.dtype)
