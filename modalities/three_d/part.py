"""Components of a scene: they also know where the cameras stand, see what was rendered, or change how it is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from modalities.core.step import Batch
    from modalities.core.studio import Studio
    from modalities.three_d.renderer import Rendering

Part = TypeVar("Part", bound=Component)


class ScenePart(Component):
    """Base of the components that look at renderings."""

    def penalty(self, rendering: Rendering, positions: Sequence[int]) -> Tensor | None:
        """Return a scalar to add to the loss for what items `positions` of the run showed, or None."""
        return None


class ScorePart(Component):
    """Base of the components that change what the component `score_distillation` does.

    Its gradient is a weighed difference of two clean pictures: what guidance sees in the noisy latents, and a
    reference, which without any of these components is what was rendered.
    """

    def start(self, batch: Batch, negative: str) -> Batch:
        """Change the items before they are noised; `negative` is the prompt that asks for nothing."""
        return batch

    def also_asked(self, batch: Batch) -> list[tuple[str, ...]]:
        """Further prompts for the same noisy latents, in blocks of one for each item."""
        return []

    def towards(self, direction: Tensor, away: list[Tensor], batch: Batch) -> Tensor:
        """Change the direction of guidance (B, ...); `away` points from nothing to each block of `also_asked`."""
        return direction

    def reference(self, batch: Batch) -> Tensor | None:
        """The clean latents (B, ...) that the guided ones are compared with, or None."""
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
