"""Learning a motion from what moves alone: errors of clips count inside a mask (as Break-a-Scene, arXiv:2305.16311).

Masks of photos as DreamVideo uses them (https://arxiv.org/abs/2312.04433) are the core's `masked_loss`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.errors import PcsError
from modalities.video.learner import Source

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch
    from modalities.video.components.footage import Footage


class ClipMasks(Component):
    """Weighs each place of a clip's latents."""

    source: ClassVar[Source] = "clips"

    masks: Path
    """Folder with a mask for each clip, named like it: a clip of as many frames, or one picture for all of them."""
    background: Annotated[float, Field(ge=0, le=1)] = 0.0
    """What the error outside counts, beside 1 inside."""

    _weights: Tensor | None = PrivateAttr(default=None)

    @property
    def _footage(self) -> Footage:
        from modalities.video.components.footage import Footage

        return next(part for part in self.studio.components if isinstance(part, Footage))

    def _weight(self, number: int) -> Tensor:
        """Weights of a clip's latents, of mean 1, `(1, F', h, w)`: a latent is inside where any of its pixels is."""
        import torch

        footage, backbone = self._footage, self._footage.backbone
        pixels = self._pixels(number)
        inside = torch.nn.functional.avg_pool2d(pixels[:, :1], backbone.pixels_per_latent)
        step = backbone.frames_per_latent
        groups = [inside[:1], *inside[1:].split(step)]
        packed = torch.stack([group.amax(0) for group in groups], 1)
        if not packed.any():
            raise PcsError(f"clip_masks: the mask of {footage.clips.clips[number].path.name} is empty.")
        weight = self.background + (1 - self.background) * packed
        return weight / weight.mean()

    def _pixels(self, number: int) -> Tensor:
        """A clip's mask, `(F, 3, side, side)` in [0, 1], at the frames that are taken of the clip."""
        from modalities.core import media
        from modalities.video.clips import read_clip

        footage = self._footage
        clip, side = footage.clips.clips[number], self.studio.resolution
        found = sorted(self.masks.glob(f"{clip.path.stem}.*"))
        if not found:
            raise PcsError(f"{self.masks}: has no mask for {clip.path.name}; name it {clip.path.stem}.png or .mp4.")
        if found[0].suffix.lower() in media.SUFFIXES - {".gif"}:
            try:
                still = media.square(media.read_photo(found[0]).open(), side)
            except media.Unusable as why:
                raise PcsError(f"{found[0]}: {why}.") from None
            return still[None].expand(footage.count, -1, -1, -1)
        mask = read_clip(found[0])
        if len(mask.times) != len(clip.times):
            frames = f"{len(mask.times)} frames, its clip {len(clip.times)}"
            raise PcsError(f"{found[0]}: has {frames}; a mask must have as many as its clip.")
        return mask.read(footage.chosen(number), side)

    def batch(self, batch: Batch) -> Batch:
        """Weigh every clip of the step."""
        import torch

        footage = self._footage
        if self._weights is None:
            rows = [self._weight(number) for number in range(len(footage.clips.clips))]
            self._weights = torch.stack(rows).to(batch.latents.device)
        return batch.weighed(self._weights[[footage.which(position) for position in batch.positions]])
