"""Aligns how predictions change from frame to frame with how they should (VMC, Jeong et al., CVPR 2024, eq. 7 to 9).

https://arxiv.org/abs/2312.00845
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from modalities.core.component import Component
from modalities.video.learner import Source

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch, Step


class FrameResidualLoss(Component):
    """One minus the cosine, over time, of the residuals of neighbouring frames; in place of the squared error."""

    source: ClassVar[Source] = "clips"

    weight: Annotated[float, Field(ge=0)] = 1.0
    as_released: bool = False
    """Take residuals without their sign, as the released code does: it then cannot tell a motion from its opposite."""
    reconstruction: Annotated[float, Field(ge=0)] = 0.0
    """What the plain squared error still counts."""

    def loss(self, step: Step, batch: Batch) -> Tensor:
        aligned = residual_misalignment(step.prediction, step.target, step.weight, signed=not self.as_released)
        return self.weight * aligned - (1 - self.reconstruction) * step.error[~batch.is_prior].mean()


def residual_misalignment(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, signed: bool = True
) -> Tensor:
    """Mean of 1 - cos over the frames of clips `(B, C, F, h, w)`, for each channel and place: 0 same, 2 opposite.

    A place weighs what it weighs on average over time.
    """
    from torch.nn.functional import cosine_similarity

    changes = [clips.diff(dim=2) for clips in (prediction, target)]
    if not signed:
        changes = [change.abs() for change in changes]
    found = 1 - cosine_similarity(changes[0], changes[1], dim=2)
    return (found if weight is None else found * weight.mean(2)).mean()
