"""A neural radiance field (Mildenhall et al., ECCV 2020) as what a 3D recipe learns. https://arxiv.org/abs/2003.08934"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from modalities.three_d.part import Scene, progress_at

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.nn import Parameter

    from modalities.core.studio import Studio
    from modalities.three_d.cameras import Views
    from modalities.three_d.field import SceneField
    from modalities.three_d.mesh import Mesh
    from modalities.three_d.renderer import Background, Rendering

Positive = Annotated[int, Field(gt=0)]
# Points on a ray of a finished picture.
FINE = 96


class Nerf(Scene):
    """The scene, a cube of density and colour."""

    resolution: Positive = 64
    """Cells a side of the encoding's planes."""
    channels: Positive = 8
    """Products of each plane and its line."""
    appearance: Annotated[int, Field(ge=0)] = 0
    """Further ones for colour alone, as in TensoRF, so that its patterns leave no dents; 0: none."""
    blob: float = 5.0
    """Density in the middle before anything is learned."""
    mirror: Literal["x", "z"] | None = None
    """"x": the shape's left and right are mirror images of one another; "z": front and back are. Colours are free."""
    samples: Positive = 48
    """Points on a ray."""
    sides: Annotated[list[Positive], Field(min_length=1)] = [64]
    """Pixels a side of what is rendered, in equal stretches of the run; pictures are enlarged to the base's size."""

    _field: SceneField = PrivateAttr()

    def prepare(self, studio: Studio) -> None:
        from modalities.three_d.field import SceneField

        super().prepare(studio)
        device = studio.backbone.device
        self._field = SceneField(**self.size).to(device)

    def parameters(self) -> dict[str, Parameter]:
        return dict(self._field.named_parameters())

    @property
    def size(self) -> dict[str, Any]:
        """What the scene's field is made with."""
        return self.model_dump(include={"resolution", "channels", "appearance", "blob", "mirror"})

    @property
    def field(self) -> SceneField:
        """The scene."""
        return self._field

    def take(self, field: SceneField) -> None:
        """Work on another scene of the same size, which somebody else optimizes."""
        self._field = field

    def side_at(self, positions: Sequence[int]) -> int:
        place = int(progress_at(self.studio, positions) * len(self.sides))
        return self.sides[min(place, len(self.sides) - 1)]

    def draw(
        self,
        views: Views,
        side: int,
        *,
        background: Background | None = None,
        jitter: Tensor | None = None,
        occupied: Tensor | None = None,
        samples: int | None = None,
    ) -> Rendering:
        import torch

        from modalities.three_d.renderer import render

        return render(
            self._field,
            views.to(self.studio.backbone.device),
            side,
            samples=samples or self.samples,
            background=background or torch.ones_like,
            jitter=jitter,
            occupied=occupied,
        )

    def portray(self, views: Views, side: int, background: Background | None = None) -> Tensor:
        import torch

        from modalities.three_d.shape import occupied_cells

        more: dict[str, Any] = {"occupied": occupied_cells(self._field), "samples": FINE, "background": background}
        one_by_one = [self.draw(views[number : number + 1], side, **more) for number in range(len(views))]
        return torch.cat([seen.colours.cpu() for seen in one_by_one])

    def mesh(self, cells: int) -> Mesh:
        from modalities.three_d.shape import mesh_of

        return mesh_of(self._field, cells)

    def paint(self, places: np.ndarray, normals: np.ndarray) -> np.ndarray:
        from modalities.three_d.shape import seen_colours

        return seen_colours(self._field, places, normals)

    def solid(self, cells: int) -> Tensor:
        from modalities.three_d.shape import densities, level_of

        return densities(self._field, cells) > level_of(self._field).density
