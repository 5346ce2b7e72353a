"""Pictures in the style of another one, by shared attention (StyleAligned, Hertz et al., CVPR 2024, section 4).

https://arxiv.org/abs/2312.02133
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from modalities.core.component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.attention import Attend, Place


class StyleAligned(Component):
    """While generating, self-attention also looks at a reference picture, noised alike.

    Its queries and keys first take the reference's mean and spread. Learns nothing, so any run can take it:
    `pcs generate RUN … --set components.style_aligned.reference=painting.png`.
    """

    draws: ClassVar[bool] = True

    reference: Path
    """The picture whose style is taken."""
    prompt: str = "a picture"
    """What it shows."""
    shift: float = 0.0
    """Added to the scores of the reference's keys: higher is nearer to it, lower farther."""
    normalize: bool = True
    """Whether queries and keys take the reference's mean and spread."""
    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the times, from noise on, at which it looks."""

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        import torch

        from modalities.core.attention import opened
        from modalities.core.draws import generator
        from modalities.core.sampling import beside, latents_of

        studio = self.studio
        schedule, denoiser = studio.backbone.schedule, studio.backbone.denoiser
        with torch.no_grad():
            latents = latents_of(studio, self.reference)
            words = studio.backbone.embed(["", self.prompt]).tensors["encoder_hidden_states"]
        noise = torch.randn(latents.shape, generator=generator("style aligned")).to(latents)
        self._rows, self._is_on = 2, True

        def noisy(time: float) -> Tensor:
            self._is_on = time >= (1 - self.until) * schedule.length
            return schedule.noised(latents, noise, torch.tensor([int(time)], device=latents.device))

        def states() -> Tensor:
            self._rows = 2 if pipeline.do_classifier_free_guidance else 1
            return words[-self._rows :]

        with ExitStack() as stack:
            stack.enter_context(beside(denoiser, noisy, states))
            stack.enter_context(opened(denoiser, self._attend))
            yield

    _rows: int = 2
    _is_on: bool = True

    def _attend(self, place: Place, inner: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        import torch

        if place.crosses or not self._is_on:
            return inner(query, key, value)
        own = len(query) - self._rows
        theirs = torch.arange(self._rows, device=query.device).repeat_interleave(own // self._rows) + own
        if self.normalize:
            query = torch.cat([_like(query[:own], query[theirs]), query[own:]])
            key = torch.cat([_like(key[:own], key[theirs]), key[own:]])
        bias = torch.zeros(2 * key.shape[2], device=query.device, dtype=query.dtype)
        bias[key.shape[2] :] = self.shift
        shared = torch.nn.functional.scaled_dot_product_attention(
            query[:own],
            torch.cat([key[:own], key[theirs]], 2),
            torch.cat([value[:own], value[theirs]], 2),
            attn_mask=bias.expand(query.shape[2], -1),
        )
        return torch.cat([shared, inner(query[own:], key[own:], value[own:])])


def _like(own: Tensor, other: Tensor) -> Tensor:
    """Give features the mean and spread over places of others (AdaIN, Huang & Belongie, ICCV 2017)."""
    spread, mean = own.std(2, keepdim=True) + 1e-5, own.mean(2, keepdim=True)
    return (own - mean) / spread * other.std(2, keepdim=True) + other.mean(2, keepdim=True)
