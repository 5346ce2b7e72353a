"""Components of a scene: they also know where the cameras stand, see what was rendered, or change how it is scored."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, ClassVar, TypeVar

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from modalities.core.recipe import Recipe
    from modalities.core.step import Batch
    from modalities.core.studio import Studio
    from modalities.three_d.cameras import Views
    from modalities.three_d.mesh import Mesh
    from modalities.three_d.renderer import Background, Rendering

Part = TypeVar("Part", bound=Component)


class ScenePart(Component):
    """Base of the components that look at renderings."""

    def penalty(self, rendering: Rendering, positions: Sequence[int]) -> Tensor | None:
        """Return a scalar to add to the loss for what items `positions` of the run showed, or None."""
        return None


class Scene(ScenePart):
    """Base of the components that can be seen from all sides: what a 3D recipe makes."""

    is_solid: ClassVar[bool] = False
    """Whether every point is inside or outside, and nothing half transparent."""

    @property
    def is_there(self) -> bool:
        """Whether it is what the recipe is making now; of several, the last that is there counts."""
        return True

    def restart(self) -> None:
        """Forget what a trial step may have left beside the parameters."""

    def side_at(self, positions: Sequence[int]) -> int:
        """Pixels a side of what items `positions` of the run show."""
        raise NotImplementedError

    def draw(
        self, views: Views, side: int, *, background: Background | None = None, jitter: Tensor | None = None
    ) -> Rendering:
        """Render `views` over `background`, or over white; `jitter` (B, side^2) moves samples along their rays."""
        raise NotImplementedError

    def portray(self, views: Views, side: int, background: Background | None = None) -> Tensor:
        """Finished pictures of `views`, (n, 3, side, side) in [0, 1] on the CPU."""
        raise NotImplementedError

    def mesh(self, cells: int) -> Mesh:
        """Its surface on a grid of `cells` a side.

        Raises:
            RunFailed: it is empty.
        """
        raise NotImplementedError

    def paint(self, places: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Colours (n, 3) in [0, 1] of places (n, 3) on its surface, with outward normals (n, 3)."""
        raise NotImplementedError

    def solid(self, cells: int) -> Tensor:
        """Which of `cells`^3 points of the cube are inside, (n, n, n).

        Raises:
            RunFailed: it is empty.
        """
        raise NotImplementedError


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


def part_of(owner: Studio | Recipe, kind: type[Part]) -> Part:
    """The component of that kind.

    Raises:
        PcsError: the recipe has none.
    """
    found = next((part for part in owner.components if isinstance(part, kind)), None)
    if found is None:
        raise _missing(kind.__module__.rpartition(".")[2])
    return found


def scene_of(studio: Studio) -> Scene:
    """What the recipe makes, as far as it is.

    Raises:
        PcsError: the recipe makes no scene.
    """
    found = [part for part in studio.components if isinstance(part, Scene) and part.is_there]
    if not found:
        raise _missing("nerf")
    return found[-1]


def _missing(name: str) -> PcsError:
    return PcsError(f"the recipe needs the component {name}. Add it to the list, or take another recipe.")


def progress_at(studio: Studio, positions: Sequence[int]) -> float:
    """Which share of the steps lies before the item of the first of `positions`, 0 to 1.

    Steps that refine a solid come after these, at 1: it is cut out of what is finished.
    """
    solids = {part.name for part in studio.components if isinstance(part, Scene) and part.is_solid}
    first = takewhile(lambda phase: not solids & set(phase.learn), studio.recipe.stretches())
    total = sum(phase.steps for phase in first)
    return min(1.0, positions[0] / studio.recipe.train.batch / max(1, total))
