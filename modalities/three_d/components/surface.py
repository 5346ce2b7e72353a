"""The fine stage of Magic3D (Lin et al., CVPR 2023, section 4.2): the scene as a mesh that score distillation moves.

https://arxiv.org/abs/2211.10440, with DMTet's surface (Shen et al., NeurIPS 2021, eq. 1): signed values on a grid, and
vertices where they cross zero, so that gradients of the picture reach the values through the vertices. Its colours are
those of the coarse scene at the surface, which go on learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, PrivateAttr

from modalities.three_d.components.nerf import Nerf
from modalities.three_d.part import Scene, part_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.nn import Parameter

    from modalities.core.studio import Studio
    from modalities.three_d.cameras import Views
    from modalities.three_d.mesh import Mesh
    from modalities.three_d.renderer import Background, Rendering


class Surface(Scene):
    """Begins as the surface of `nerf` in the first phase in which it learns."""

    is_solid: ClassVar[bool] = True

    cells: Annotated[int, Field(gt=3)] = 96
    """Cells a side of the grid."""
    side: Annotated[int, Field(gt=0)] = 512
    """Pixels a side of what is rendered."""
    smoothness: Annotated[float, Field(ge=0)] = 1.0
    """Against values that differ from the mean of their neighbours."""

    _values: Parameter = PrivateAttr()

    def prepare(self, studio: Studio) -> None:
        import torch

        super().prepare(studio)
        self._values = torch.nn.Parameter(torch.zeros((self.cells,) * 3).to(studio.backbone.device))

    def parameters(self) -> dict[str, Parameter]:
        """`values` (cells, cells, cells), above 0 inside."""
        return {"values": self._values}

    @property
    def is_there(self) -> bool:
        return self._values.requires_grad or self._has_begun

    @property
    def _has_begun(self) -> bool:
        return bool(self._values.detach().any())

    def restart(self) -> None:
        if self._values.requires_grad:
            self._values.data.zero_()

    def side_at(self, positions: Sequence[int]) -> int:
        return self.side

    def draw(
        self, views: Views, side: int, *, background: Background | None = None, jitter: Tensor | None = None
    ) -> Rendering:
        import torch

        from modalities.three_d.mesh_renderer import draw_mesh

        if not self._has_begun:
            self._begin()
        field, views = part_of(self.studio, Nerf).field, views.to(self._values.device)
        return draw_mesh(self._values, lambda points: field(points)[1], views, side, background or torch.ones_like)

    def _begin(self) -> None:
        """Take the coarse scene's surface: zero where its density is that of its outline."""
        from modalities.three_d.shape import densities, level_of

        field = part_of(self.studio, Nerf).field
        ratio = (densities(field, self.cells) + 0.01) / level_of(field).density
        self._values.data.copy_(ratio.log().clamp(-2, 2) / 2)

    def penalty(self, rendering: Rendering, positions: Sequence[int]) -> Tensor | None:
        from torch.nn import functional

        if not self._values.requires_grad or not self.smoothness:
            return None
        whole = self._values[None, None]
        around = functional.avg_pool3d(whole, 3, 1, 1, count_include_pad=False)
        return self.smoothness * (around - whole).square().mean()

    def portray(self, views: Views, side: int, background: Background | None = None) -> Tensor:
        import torch
        from torch.nn import functional

        with torch.no_grad():
            seen = self.draw(views, 2 * side, background=background).colours
        return functional.avg_pool2d(seen, 2).cpu()

    def mesh(self, cells: int) -> Mesh:
        from modalities.core.errors import RunFailed
        from modalities.three_d.mesh import Mesh, isosurface

        vertices, faces = isosurface(self._finer(cells).numpy(), 0.0)
        if not len(faces):
            raise RunFailed("the scene is empty: its surface has shrunk to nothing; take a lower learning rate for it.")
        return Mesh((vertices / (cells - 1) * 2 - 1).astype("float32"), faces).largest_part()

    def paint(self, places: np.ndarray, normals: np.ndarray) -> np.ndarray:
        import torch

        field = part_of(self.studio, Nerf).field
        with torch.no_grad():
            return field(torch.from_numpy(places).to(self._values.device))[1].cpu().numpy()

    def solid(self, cells: int) -> Tensor:
        return self._finer(cells) > 0

    def _finer(self, cells: int) -> Tensor:
        """The values on a grid of `cells` a side, on the CPU."""
        from torch.nn import functional

        whole = self._values.detach()[None, None]
        return functional.interpolate(whole, (cells,) * 3, mode="trilinear", align_corners=True)[0, 0].cpu()
