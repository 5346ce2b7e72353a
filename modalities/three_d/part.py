"""Components of a scene: they also know where the cameras stand, and see what was rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from modalities.core.studio import Studio
    from modalities.three_d.renderer import Rendering

Part = TypeVar("Part", bound=Component)


class ScenePart(Component):
    """Base of the components that look at renderings."""

    def penalty(self, rendering: Rendering, positions: Sequence[int]) -> Tensor | None:
        """Return a scalar to add to the loss for what items `positions` of the run showed, or None."""
        return None


def part_of(studio: Studio, kind: type[Part]) -> Part:
    """The component of that kind.

    Raises:
        PcsError: the recipe has none.
    """
    found = next((part for part in studio.components if isinstance(part, kind)), None)
    if found is None:
        raise PcsError(f"a 3D recipe needs the component {kind.__module__.rpartition('.')[2]}; add it to the list.")
    return found


def progress_at(studio: Studio, positions: Sequence[int]) -> float:
    """Which share of the run lies before the item of the first of `positions`, 0 to 1."""
    total = sum(phase.steps for phase in studio.recipe.stretches())
    return min(1.0, positions[0] / studio.recipe.train.batch / max(1, total))
