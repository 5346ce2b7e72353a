"""The scene: density and colour at every point of a cube, and the surroundings that its rays end in.

TensoRF's vector-matrix factors (Chen et al., ECCV 2022, eq. 8, https://arxiv.org/abs/2203.09517): three planes times
three lines, which is smooth, small, and by far the fastest encoding on a CPU.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

# The axes of each plane, and of the line that crosses it.
PLANES = ((0, 1), (0, 2), (1, 2))
LINES = (2, 1, 0)
SHARPNESS, GAIN = 20.0, 4.0

# Along which axis a shape may be its own mirror image, the likeliest first: x, left and right; z, front and back.
MIRRORS = {"x": 0, "z": 2}


class SceneField(nn.Module):
    """Density and colour in the cube from -1 to 1.

    Args:
        resolution: cells a side of the planes and lines.
        channels: products that each plane gives for density.
        appearance: further ones for colour, so that its patterns leave no dents; 0: it reads those of density.
        hidden: width of the small network that reads them.
        blob: density added in the middle before anything is learned, as in Magic3D; falls to 0 at radius 0.5 and
            further below outside.
        mirror: one of `MIRRORS`, along which the shape is its own mirror image; colours are free.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 8,
        appearance: int = 0,
        hidden: int = 32,
        blob: float = 5.0,
        mirror: str | None = None,
    ) -> None:
        super().__init__()
        self.blob = blob
        # Part of the state, so that a scene can be taken over by one that was made otherwise.
        self.is_mirrored: Tensor
        self.register_buffer("is_mirrored", torch.tensor([mirror == axis for axis in "xyz"]))
        every = channels + appearance
        self.planes = nn.Parameter(0.1 * torch.randn(3, every, resolution, resolution))
        self.lines = nn.Parameter(0.1 * torch.randn(3, every, resolution, 1) + 0.5)
        self.density = nn.Linear(3 * channels, 1)
        self.colour = nn.Sequential(nn.Linear(3 * (appearance or channels), hidden), nn.ReLU(), nn.Linear(hidden, 3))
        nn.init.zeros_(self.density.bias)

    def densities(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density per half side of the cube, at least 0."""
        return self._density(self._features(self._folded(points), self._of_shape), points)

    def forward(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density and colour in [0, 1] at `points`."""
        folded = self._folded(points)
        shape = self._features(folded, self._of_shape)
        is_shared = folded is points and self._of_look == self._of_shape
        look = shape if is_shared else self._features(points, self._of_look)
        return self._density(shape, points), torch.sigmoid(self.colour(look))

    @property
    def _of_shape(self) -> slice:
        return slice(0, self.density.weight.shape[1] // 3)

    @property
    def _of_look(self) -> slice:
        own = self.colour[0].weight.shape[1] // 3
        return slice(self.planes.shape[1] - own, self.planes.shape[1])

    def _folded(self, points: Tensor) -> Tensor:
        """Points on the side that the shape is learned on."""
        return torch.where(self.is_mirrored, points.abs(), points) if self.is_mirrored.any() else points

    def _features(self, points: Tensor, channels: slice) -> Tensor:
        """Products of planes and lines at `points`, (n, features)."""
        flat = torch.stack([points[:, axes] for axes in PLANES])[:, None]
        along = torch.stack([points[:, axis] for axis in LINES])
        along = torch.stack([torch.zeros_like(along), along], dim=-1)[:, None]
        planes = functional.grid_sample(self.planes[:, channels], flat, align_corners=True)
        lines = functional.grid_sample(self.lines[:, channels], along, align_corners=True)
        return (planes * lines).flatten(0, 2).T

    def _density(self, features: Tensor, points: Tensor) -> Tensor:
        blob = self.blob * (1 - points.norm(dim=-1) / 0.5)
        return SHARPNESS * functional.softplus(self.density(features)[:, 0] * GAIN + blob)

    def roughness(self) -> Float[Tensor, ""]:
        """Mean squared difference of neighbouring cells of planes and lines."""
        planes, lines = self.planes, self.lines
        return (
            (planes[..., 1:, :] - planes[..., :-1, :]).square().mean()
            + (planes[..., 1:] - planes[..., :-1]).square().mean()
            + (lines[:, :, 1:] - lines[:, :, :-1]).square().mean()
        )


class PlaceMaps(nn.Module):
    """What a ray sees behind the scene, one of `count` places: colours by direction on a coarse map of the sky sphere.

    Coarse, so that it can hold a wall, a floor and a horizon but never the subject.
    """

    ROWS, COLUMNS = 13, 8

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.zeros(count, 3, self.ROWS, self.COLUMNS))

    def forward(self, directions: Float[Tensor, "n 3"], place: int = 0) -> Float[Tensor, "n 3"]:
        """Colours in [0, 1] towards `directions`."""
        wrapped = torch.cat([self.maps[place], self.maps[place, :, :, :1]], dim=-1)[None]
        around = torch.atan2(directions[:, 0], directions[:, 2]) / torch.pi
        up = torch.asin(directions[:, 1].clamp(-1, 1)) / (torch.pi / 2)
        where = torch.stack([around, -up], dim=-1)[None, None]
        return torch.sigmoid(functional.grid_sample(wrapped, where, align_corners=True)[0, :, 0].T)
