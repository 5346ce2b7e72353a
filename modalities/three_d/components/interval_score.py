"""Interval score matching (LucidDreamer: Liang et al., CVPR 2024, eq. 12-17). https://arxiv.org/abs/2311.11284

The noise is no longer drawn: the rendered latents are inverted to a time by DDIM, and what guidance sees there is
compared with what the base saw, unasked, an interval before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from modalities.three_d.part import ScorePart

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch


class IntervalScore(ScorePart):
    """Compares two neighbouring times of one path, so that guidance may be small (7.5)."""

    interval: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """From the earlier time to the later one, as a share of the base's times."""
    steps: Annotated[int, Field(gt=0)] = 3
    """Steps of the inversion up to the earlier time, each one evaluation of the base."""

    _earlier: Tensor | None = PrivateAttr(default=None)

    def start(self, batch: Batch, negative: str) -> Batch:
        """Give each item the noise that leads back to it, and remember what the base saw an interval before."""
        import torch

        backbone = self.studio.backbone
        schedule, latents = backbone.schedule, batch.latents.detach()
        times = schedule.times.to(latents.device)
        last = (torch.searchsorted(times, batch.t) - round(self.interval * len(times))).clamp(min=1)
        nothing = backbone.conditioning((negative,) * len(latents))
        noisy, clean, noise = latents, latents, torch.zeros_like(latents)
        with torch.no_grad():
            for number in range(self.steps + 1):
                t = times[(last * number / self.steps).round().long()]
                if number:
                    noisy = schedule.noised(clean, noise, t)
                clean = schedule.clean(noisy, backbone.predict(noisy, t, nothing).float(), t)
                noise = self._noise(noisy, clean, t)
            self._earlier = clean
            reached = schedule.noised(clean, noise, batch.t)
            return replace(batch, noise=self._noise(reached, latents, batch.t))

    def reference(self, batch: Batch) -> Tensor | None:
        """What the base saw at the earlier time."""
        return self._earlier

    def _noise(self, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """The noise that is in `noisy` if `clean` is what it was made of; noising is linear in both."""
        import torch

        schedule, nothing = self.studio.backbone.schedule, torch.zeros_like(clean)
        return (noisy - schedule.noised(clean, nothing, t)) / schedule.noised(nothing, torch.ones_like(clean), t)
