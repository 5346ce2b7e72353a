"""Learning from the subject alone: the error counts inside a mask (Break-a-Scene, Avrahami et al., 2023, eq. 1).

https://arxiv.org/abs/2305.16311
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.media import Photo
    from modalities.core.step import Batch
    from modalities.core.studio import Studio


class MaskedLoss(Component):
    """Weighs each photo's error by its mask, so that backgrounds are not learned."""

    masks: Path | None = None
    """Folder of masks, white where the subject is, each named like its photo; None takes the photos' alpha channels."""
    background: Annotated[float, Field(ge=0, le=1)] = 0.0
    """What the error outside counts, beside 1 inside."""

    _weights: Tensor = PrivateAttr()

    def prepare(self, studio: Studio) -> None:
        import torch

        super().prepare(studio)
        if not studio.training:
            return
        views = (False, True) if studio.recipe.data.flip else (False,)
        rows = [self._weight(photo, mirrored) for photo in studio.concept.all_photos for mirrored in views]
        self._weights = torch.stack(rows).to(studio.backbone.device)

    def _weight(self, photo: Photo, mirrored: bool) -> Tensor:
        """Weights of a photo's latents, of mean 1, `(1, h, w)`."""
        import torch

        from modalities.core import media

        mask = media.read_mask(photo, self.masks)
        pixels = media.square(mask, self.studio.resolution, mirrored=mirrored)[:1]
        inside = torch.nn.functional.avg_pool2d(pixels, self.studio.backbone.pixels_per_latent)
        if not inside.any():
            raise PcsError(f"masked_loss: the mask of {photo.path} is empty where the photo is used.")
        weight = self.background + (1 - self.background) * inside
        return weight / weight.mean()

    def batch(self, batch: Batch) -> Batch:
        """Weigh the subject's items; those that other components add before count in full."""
        import torch

        rows = [self.studio.view_at(position) for position in batch.positions]
        weight = torch.where(batch.is_prior[:, None, None, None], 1.0, self._weights[rows])
        return batch.weighed(weight)
