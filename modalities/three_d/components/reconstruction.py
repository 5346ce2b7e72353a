"""Reconstruction of pseudo multi-view pictures (DreamBooth3D: Raj et al., ICCV 2023, section 3.2, stage 3).

https://arxiv.org/abs/2303.13508
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from modalities.core.component import Component

if TYPE_CHECKING:
    from torch import Tensor

Share = Annotated[float, Field(ge=0)]


class Reconstruction(Component):
    """The scene must also look like the pseudo views from their cameras."""

    share: Share = 1.0
    """Norm of its gradient beside that of all other losses, measured on the first step that it acts in."""
    last: Share = 0.2
    """What is left of its weight when the run ends; it falls over the last third."""
    views: Annotated[int, Field(gt=0)] = 1
    """Pseudo views for each step."""

    def factor(self, done: float) -> float:
        """Factor on the weight after the share `done` of the run."""
        return 1.0 if done < 2 / 3 else 1.0 + (self.last - 1.0) * (done - 2 / 3) * 3

    @staticmethod
    def distance(seen: Tensor, wanted: Tensor) -> Tensor:
        """Mean absolute difference of pictures (B, 3, side, side)."""
        return (seen - wanted).abs().mean()
