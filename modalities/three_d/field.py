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


class SceneField(nn.Module):
    """Density and colour in the cube from -1 to 1.

    Args:
        resolution: cells a side of the planes and lines.
        channels: products that each plane gives.
        hidden: width of the small network that reads them.
        blob: density added in the middle before anything is learned, as in Magic3D; falls to 0 at radius 0.5 and
            further below outside.
    """

    def __init__(self, resolution: int = 64, channels: int = 8, hidden: int = 32, blob: float = 5.0) -> None:
        super().__init__()
        self.blob = blob
        self.planes = nn.Parameter(0.1 * torch.randn(3, channels, resolution, resolution))
        self.lines = nn.Parameter(0.1 * torch.randn(3, channels, resolution, 1) + 0.5)
        self.density = nn.Linear(3 * channels, 1)
        self.colour = nn.Sequential(nn.Linear(3 * channels, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        nn.init.zeros_(self.density.bias)

    def features(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n f"]:
        """Products of planes and lines at `points`."""
        flat = torch.stack([points[:, axes] for axes in PLANES])[:, None]
        along = torch.stack([points[:, axis] for axis in LINES])
        along = torch.stack([torch.zeros_like(along), along], dim=-1)[:, None]
        planes = functional.grid_sample(self.planes, flat, align_corners=True)
        lines = functional.grid_sample(self.lines, along, align_corners=True)
        return (planes * lines).flatten(0, 2).T

    def densities(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density per half side of the cube, at least 0."""
        return self._density(self.features(points), points)

    def forward(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density and colour in [0, 1] at `points`."""
        features = self.features(points)
        return self._density(features, points), torch.sigmoid(self.colour(features))

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
