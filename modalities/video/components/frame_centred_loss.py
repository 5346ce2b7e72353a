"""A temporal loss in which what all frames share counts nothing at all: errors are taken from their mean over time.

Of no particular paper; the limit of MotionDirector's debiasing (https://arxiv.org/abs/2310.08465), whose anchor frame
leaves a share of 0.17 to a still error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from modalities.core.component import Component
from modalities.video.learner import Source

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch, Step


class FrameCentredLoss(Component):
    """The squared error of clips without their mean frame, in place of or beside the plain squared error."""

    source: ClassVar[Source] = "clips"

    weight: Annotated[float, Field(ge=0)] = 1.0
    reconstruction: Annotated[float, Field(ge=0)] = 0.0
    """What the plain squared error still counts."""

    def loss(self, step: Step, batch: Batch) -> Tensor:
        error = centred(step.prediction - step.target)
        return (
            self.weight * step.weighed(error.square()).mean()
            - (1 - self.reconstruction) * step.error[~batch.is_prior].mean()
        )


def centred(clips: Tensor) -> Tensor:
    """Clips `(B, C, F, h, w)` without their mean frame."""
    return clips - clips.mean(2, keepdim=True)
