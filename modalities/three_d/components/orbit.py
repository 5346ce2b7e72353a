"""Random cameras around the scene, as DreamFusion draws them (Poole et al., ICLR 2023, section 3.2).

https://arxiv.org/abs/2209.14988 — with azimuths spread evenly over neighbouring steps, and a warm-up from the front
as in nerfstudio's generfacto.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from modalities.core.component import Component
from modalities.three_d.part import progress_at

if TYPE_CHECKING:
    from modalities.three_d.cameras import Views

Range = tuple[float, float]
Share = Annotated[float, Field(ge=0, le=1)]


class Orbit(Component):
    """Where the camera of every item stands: a function of the item's place in the run."""

    elevation: Range = (-10.0, 60.0)
    """Degrees; drawn evenly over the sphere between both."""
    above: Share = 0.0
    """Share of the cameras that look from high up instead."""
    above_elevation: Range = (45.0, 75.0)
    """Degrees from which these look."""
    distance: Range = (2.8, 3.6)
    """From the middle, in half sides of the scene's cube."""
    field_of_view: Range = (40.0, 55.0)
    """Degrees."""
    warmup: Share = 0.0
    """Share of the run over which azimuths open up from the front to all around."""

    def views(self, positions: Sequence[int]) -> Views:
        """The cameras of items `positions` of the run."""
        import torch

        from modalities.core.draws import generator
        from modalities.three_d.cameras import Views

        draws = self.studio.draws
        around = draws.uniform("azimuth", positions) - 0.5
        opened = 1.0 if not self.warmup else min(1.0, progress_at(self.studio, positions) / self.warmup)
        drawn = torch.stack([torch.rand(4, generator=generator(draws.seed, "camera", place)) for place in positions])
        spans = torch.tensor([self.elevation, self.above_elevation])[(drawn[:, 3] < self.above).long()]
        low, high = spans.deg2rad().sin().unbind(1)
        elevation = (low + drawn[:, 0] * (high - low)).asin().rad2deg()
        distance, field_of_view = (
            span[0] + drawn[:, 1 + number] * (span[1] - span[0])
            for number, span in enumerate((self.distance, self.field_of_view))
        )
        return Views(around * 360 * opened % 360, elevation, distance, field_of_view)
