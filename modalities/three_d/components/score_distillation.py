"""Score distillation sampling (DreamFusion: Poole et al., ICLR 2023, eq. 3), also as MVDream takes it.

https://arxiv.org/abs/2209.14988 and https://arxiv.org/abs/2308.16512 (eq. 4, x0 loss with rescaled guidance).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from modalities.core.component import Component
from modalities.three_d.part import ScorePart, progress_at

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

        studio, done = self.studio, progress_at(self.studio, batch.positions)
        low, high = (a + (b - a) * done for a, b in zip(self.first, self.last, strict=True))
        drawn = torch.tensor([studio.draws.chance("score time", at) for at in batch.positions])
        times = studio.backbone.schedule.times
        index = (low + drawn * (high - low)) * (len(times) - 1)
        return times[index.round().long()].to(batch.t.device)

    @property
    def _parts(self) -> list[ScorePart]:
        return [part for part in self.studio.components if isinstance(part, ScorePart)]

    def batch(self, batch: Batch) -> Batch:
        """Every item at its time, then, unless guidance is off, the same without its words and with other words."""
        batch = replace(batch, t=self.times(batch))
        for part in self._parts:
            batch = part.start(batch, self.negative_prompt)
        if self.guidance == 1:
            return batch
        whole = batch.joined(replace(batch, prompts=(self.negative_prompt,) * len(batch.prompts)))
        for prompts in self._also_asked(batch):
            whole = whole.joined(replace(batch, prompts=prompts))
        return whole

    def _also_asked(self, batch: Batch) -> list[tuple[str, ...]]:
        return [prompts for part in self._parts for prompts in part.also_asked(batch)]

    def loss(self, step: Step, batch: Batch) -> Tensor:
        """Half the squared distance to the target, summed over an item, mean over the items."""
        count = len(dict.fromkeys(batch.positions))
        items = batch.part(0, count)
        latents = items.latents
        schedule = self.studio.backbone.schedule
        noisy = schedule.noised(latents, items.noise, items.t).detach()
        asked, *others = step.prediction.detach().split(count)
        clean = schedule.clean(noisy, self._guided(asked, others, items), items.t)
        if self.rescale:
            clean = rescaled(clean, schedule.clean(noisy, asked, items.t), self.rescale)
        references = (part.reference(items) for part in self._parts)
        reference = next((one for one in references if one is not None), latents.detach())
        gradient = (reference - clean) * self._weight(items.t).view(-1, *[1] * (latents.ndim - 1))
        target = latents.detach() - gradient
        return 0.5 * (latents - target).square().sum() / count

    def _guided(self, asked: Tensor, others: list[Tensor], items: Batch) -> Tensor:
        """Classifier-free guidance (Ho & Salimans 2022, eq. 6, as libraries count its scale)."""
        if not others:
            return asked
        unasked, *also = others
        direction = asked - unasked
        for part in self._parts:
            blocks = len(part.also_asked(items))
            direction = part.towards(direction, [one - unasked for one in also[:blocks]], items)
            also = also[blocks:]
        return unasked + self.guidance * direction

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
