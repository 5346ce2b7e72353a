"""Learning from the subject alone: the error counts inside a mask (Break-a-Scene, Avrahami et al., 2023, eq. 1).

https://arxiv.org/abs/2305.16311
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.media import MaskSource

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch
    from modalities.core.studio import Studio


class MaskedLoss(Component):
    """Weighs each photo's error by its mask, so that backgrounds are not learned."""

    masks: MaskSource = None
    """Folder of masks, white where the subject is, each named like its photo; "attention" lets the base find the class
    word in each photo; None takes the photos' alpha channels."""
    background: Annotated[float, Field(ge=0, le=1)] = 0.0
    """What the error outside counts, beside 1 inside."""

    _weights: Tensor = PrivateAttr()

    def prepare(self, studio: Studio) -> None:
        import torch

        super().prepare(studio)
        if not studio.training:
            return
        from modalities.core.subject_mask import masks

        inside = torch.nn.functional.avg_pool2d(masks(studio, self.masks), studio.backbone.pixels_per_latent)
        weight = self.background + (1 - self.background) * inside
        self._weights = (weight / weight.mean((1, 2, 3), keepdim=True)).to(studio.backbone.device)

    def batch(self, batch: Batch) -> Batch:
        """Weigh the subject's items; those that other components add before count in full."""
        import torch

        rows = [self.studio.view_at(position) for position in batch.positions]
        weight = torch.where(batch.is_prior[:, None, None, None], 1.0, self._weights[rows])
        return batch.weighed(weight)
