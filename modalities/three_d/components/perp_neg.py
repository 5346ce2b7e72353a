"""Perp-Neg (Armandpour et al., 2023, section 4): leads away from the words of other views, at right angles to its own.

https://arxiv.org/abs/2304.04968, with the weights by azimuth that threestudio uses. The words of views stay whole: two
views' words are not mixed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from modalities.three_d.components.orbit import Orbit
from modalities.three_d.components.view_prompts import ViewPrompts
from modalities.three_d.part import ScorePart, part_of

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch

Decay = tuple[float, float, float]


class PerpNeg(ScorePart):
    """Weights fall as a exp(-b r) + c, r being 1 where the camera shows the first view of the name, 0 at the second."""

    front_side: Decay = (4.0, 0.5, -2.426)
    """Away from the front's words, between front and side."""
    side_front: Decay = (4.0, 0.5, -2.426)
    """Away from the side's words, between side and front."""
    side_back: Decay = (1.0, 0.5, -0.606)
    """Away from the side's words, between side and back."""
    front_side_back: Decay = (1.0, 0.5, 0.967)
    """Away from the front's words, between side and back."""

    def also_asked(self, batch: Batch) -> list[tuple[str, ...]]:
        """The same prompts with the words of the two views that are led away from."""
        words = part_of(self.studio, ViewPrompts)
        cameras = self._cameras(batch)
        bare = [
            prompt.removesuffix(words.word(azimuth, elevation))
            for prompt, (azimuth, elevation) in zip(batch.prompts, cameras, strict=True)
        ]
        named = [self.away_from(azimuth, elevation) for azimuth, elevation in cameras]
        return [
            tuple(prompt + words.words[two[which][0]] for prompt, two in zip(bare, named, strict=True))
            for which in (0, 1)
        ]

    def towards(self, direction: Tensor, away: list[Tensor], batch: Batch) -> Tensor:
        named = [self.away_from(azimuth, elevation) for azimuth, elevation in self._cameras(batch)]
        turned = direction
        for which, other in enumerate(away):
            weights = direction.new_tensor([two[which][1] for two in named])
            turned = turned - weights.view(-1, *[1] * (direction.ndim - 1)) * perpendicular(other, direction)
        return turned

    def away_from(self, azimuth: float, elevation: float) -> tuple[tuple[str, float], tuple[str, float]]:
        """The two views that a camera at these degrees is led away from, and how much, from 0 on."""
        from modalities.three_d.cameras import gap

        if elevation >= part_of(self.studio, ViewPrompts).overhead:
            return ("front", 0.0), ("side", 0.0)
        off = gap(azimuth, 0.0)
        if off < 90:
            near = 1 - off / 90
            return ("front", _decayed(self.front_side, near)), ("side", _decayed(self.side_front, 1 - near))
        near = 2 - off / 90
        return ("side", _decayed(self.side_back, near)), ("front", _decayed(self.front_side_back, near))

    def _cameras(self, batch: Batch) -> list[tuple[float, float]]:
        views = part_of(self.studio, Orbit).views(batch.positions)
        return list(zip(views.azimuth.tolist(), views.elevation.tolist(), strict=True))


def perpendicular(one: Tensor, other: Tensor) -> Tensor:
    """The part of each item of `one` (B, ...) at right angles to `other`."""
    axes = tuple(range(1, one.ndim))
    share = (one * other).sum(axes, keepdim=True) / other.square().sum(axes, keepdim=True).clamp(min=1e-6)
    return one - share * other


def _decayed(decay: Decay, share: float) -> float:
    scale, rate, offset = decay
    return scale * math.exp(-rate * share) + offset
