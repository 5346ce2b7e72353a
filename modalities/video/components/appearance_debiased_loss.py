"""The temporal loss that looks away from what all frames share (MotionDirector, Zhao et al., ECCV 2024, eq. 5 to 7).

https://arxiv.org/abs/2310.08465
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from modalities.core.component import Component
from modalities.video.learner import Source

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch, Step


class AppearanceDebiasedLoss(Component):
    """Adds the squared error of `phi(x) = sqrt(beta^2 + 1) x - beta x_i`, i an anchor frame drawn in each step.

    An error that all frames share counts (sqrt(2) - 1)^2 = 0.17 in it at beta 1, one that changes about 3.
    """

    source: ClassVar[Source] = "clips"

    weight: Annotated[float, Field(ge=0)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 1.0

    def loss(self, step: Step, batch: Batch) -> Tensor:
        frames = step.prediction.shape[2]
        anchors = [self.studio.draws.pick("anchor", position, frames) for position in batch.positions]
        error = debiased(step.prediction, anchors, self.beta) - debiased(step.target, anchors, self.beta)
        return self.weight * step.weighed(error.square()).mean()


def debiased(clips: Tensor, anchors: list[int], beta: float = 1.0) -> Tensor:
    """`sqrt(beta^2 + 1) x - beta x_i` of clips `(B, C, F, h, w)`, one anchor frame i for each."""
    import torch

    anchor = torch.stack([clip[:, frame] for clip, frame in zip(clips, anchors, strict=True)])
    return (beta**2 + 1) ** 0.5 * clips - beta * anchor[:, :, None]
