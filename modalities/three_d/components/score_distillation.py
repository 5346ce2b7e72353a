"""Score distillation sampling (DreamFusion: Poole et al., ICLR 2023, eq. 3), also as MVDream takes it.

https://arxiv.org/abs/2209.14988 and https://arxiv.org/abs/2308.16512 (eq. 4, x0 loss with rescaled guidance).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from modalities.core.component import Component
from modalities.three_d.part import progress_at

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from modalities.core.step import Batch, Step

Share = Annotated[float, Field(ge=0, le=1)]
Span = tuple[Share, Share]


class ScoreDistillation(Component):
    """Pulls what the scene shows towards what the base sees in it; the base itself is never differentiated."""

    guidance: Annotated[float, Field(ge=0)] = 100.0
    """Classifier-free guidance; 1 switches it off."""
    rescale: Share = 0.0
    """How far the guided picture keeps the spread of the unguided one: 0 as DreamFusion, 0.5 as MVDream."""
    first: Span = (0.02, 0.98)
    """Shares of the base's times between which they are drawn when the run begins."""
    last: Span = (0.02, 0.98)
    """The same when it ends; between both they move evenly."""
    residual: Literal["noise", "clean"] = "noise"
    """Weigh the residual of the noise by sigma^2, or take the residual of the clean picture as it is."""
    negative_prompt: str = ""

    def times(self, batch: Batch) -> Tensor:
        """The times of the items, drawn between what `first` and `last` say at this point of the run."""
        import torch

        from modalities.core.draws import generator

        studio, done = self.studio, progress_at(self.studio, batch.positions)
        low, high = (a + (b - a) * done for a, b in zip(self.first, self.last, strict=True))
        drawn = [torch.rand(1, generator=generator(studio.draws.seed, "score time", at)) for at in batch.positions]
        times = studio.backbone.schedule.times
        index = (low + torch.cat(drawn) * (high - low)) * (len(times) - 1)
        return times[index.round().long()].to(batch.t.device)

    def batch(self, batch: Batch) -> Batch:
        batch = replace(batch, t=self.times(batch))
        if self.guidance == 1:
            return batch
        return batch.joined(replace(batch, prompts=(self.negative_prompt,) * len(batch.prompts)))

    def loss(self, step: Step, batch: Batch) -> Tensor:
        """Half the squared distance to the target, summed over an item, mean over the items."""
        count = len(step.latents) // (1 if self.guidance == 1 else 2)
        latents, t = step.latents[:count], step.t[:count]
        schedule = self.studio.backbone.schedule
        noisy = schedule.noised(latents, step.noise[:count], t).detach()
        asked, unasked = step.prediction[:count].detach(), step.prediction[-count:].detach()
        clean = schedule.clean(noisy, guided(asked, unasked, self.guidance), t)
        if self.rescale:
            clean = rescaled(clean, schedule.clean(noisy, asked, t), self.rescale)
        gradient = (latents.detach() - clean) * self._weight(t).view(-1, *[1] * (latents.ndim - 1))
        target = latents.detach() - gradient
        return 0.5 * (latents - target).square().sum() / count

    def _weight(self, t: Tensor) -> Tensor:
        """What the residual of the clean picture is multiplied with.

        The residual of the noise is alpha / sigma times that of the clean picture, and DreamFusion's weight is
        sigma^2: together alpha * sigma.
        """
        import torch

        if self.residual == "clean":
            return torch.ones_like(t, dtype=torch.float32)
        ratio = self.studio.backbone.schedule.signal_to_noise(t)
        return ratio.sqrt() / (1 + ratio)


def guided(asked: Float[Tensor, "b ..."], unasked: Float[Tensor, "b ..."], scale: float) -> Float[Tensor, "b ..."]:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, as libraries count its scale)."""
    return unasked + scale * (asked - unasked)


def rescaled(clean: Float[Tensor, "b ..."], plain: Float[Tensor, "b ..."], share: float) -> Float[Tensor, "b ..."]:
    """Give `clean` the spread of `plain`, `share` of the way (Lin et al., WACV 2024, eq. 15-16)."""
    axes = tuple(range(1, clean.ndim))
    factor = plain.std(axes, keepdim=True) / clean.std(axes, keepdim=True).clamp(min=1e-6)
    return clean * (share * factor + 1 - share)
