"""Clips that go on from a given first frame, which is neither noised nor learned (LAMP, Wu et al., CVPR 2024).

https://arxiv.org/abs/2310.10769, section 3.2.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from modalities.core.component import Component
from modalities.video.learner import Source

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch


class FirstFrame(Component):
    """The motion of the rest is learned from it, and clips are made from a picture of what is asked for."""

    source: ClassVar[Source] = "clips"
    draws: ClassVar[bool] = True

    image: Path | None = None
    """The picture that clips begin with; None lets the base draw one of the prompt, with what it learned."""

    def batch(self, batch: Batch) -> Batch:
        """Give the first frame the very noise that leaves it as it is, and no say in the loss."""
        import torch

        schedule, latents = self.studio.backbone.schedule, batch.latents
        one = torch.ones(len(latents), *[1] * (latents.ndim - 1), device=latents.device)
        signal, noise = schedule.noised(one, 0 * one, batch.t), schedule.noised(0 * one, one, batch.t)
        neutral = (1 - signal) / noise * latents[:, :, :1]
        weight = torch.ones(1, 1, latents.shape[2], 1, 1, device=latents.device)
        weight[:, :, 0] = 0
        changed = replace(batch, noise=torch.cat([neutral, batch.noise[:, :, 1:]], 2))
        return changed.weighed(weight / weight.mean())

    def latents(self) -> Tensor | None:
        """The picture as `(1, C, h, w)`, if one was given.

        Raises:
            PcsError: it cannot be read.
        """
        if self.image is None:
            return None
        import torch

        from modalities.core import media
        from modalities.core.errors import PcsError

        try:
            photo = media.read_photo(self.image).open()
        except media.Unusable as why:
            raise PcsError(f"components.first_frame.image: {self.image} {why}.") from None
        with torch.no_grad():
            found = self.studio.backbone.encode(media.square(photo, self.studio.resolution)[None])
        return (found.mean - found.shift) * found.scale
