"""Cameras that stand around a scene and look at its middle, the rays through their pixels, and where they stand.

Right-handed, y up, the subject faces +z, lengths in half sides of the scene's cube. Azimuth 0 looks at the front, 90
at the side with x > 0; elevation 90 is straight above. Seen from the front, +x is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """Where B cameras stand; every tensor is float32 `(B,)`.

    azimuth, elevation, field_of_view: degrees. distance: from the middle of the scene.
    """

    azimuth: Float[Tensor, " b"]
    elevation: Float[Tensor, " b"]
    distance: Float[Tensor, " b"]
    field_of_view: Float[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.azimuth)

    def __getitem__(self, index: slice | list[int]) -> Views:
        return Views(self.azimuth[index], self.elevation[index], self.distance[index], self.field_of_view[index])

    def to(self, device: torch.device) -> Views:
        """The same cameras on another device."""
        return Views(*(part.to(device) for part in (self.azimuth, self.elevation, self.distance, self.field_of_view)))

    @classmethod
    def of(
        cls, azimuths: Sequence[float], *, elevation: float = 15.0, distance: float = 3.0, field_of_view: float = 40.0
    ) -> Views:
        """Cameras at `azimuths`, alike in everything else."""
        count = len(azimuths)
        return cls(
            torch.tensor(list(azimuths), dtype=torch.float32),
            *(torch.full((count,), float(value)) for value in (elevation, distance, field_of_view)),
        )

    def axes(self) -> Float[Tensor, "b 3 3"]:
        """Of every camera the directions right, up and towards it, as rows."""
        azimuth, elevation = self.azimuth.deg2rad(), self.elevation.deg2rad()
        towards = torch.stack(
            [elevation.cos() * azimuth.sin(), elevation.sin(), elevation.cos() * azimuth.cos()], dim=-1
        )
        # The limit of forward x up, also straight above.
        right = torch.stack([azimuth.cos(), torch.zeros_like(azimuth), -azimuth.sin()], dim=-1)
        return torch.stack([right, torch.linalg.cross(towards, right), towards], dim=1)

    def rays(self, side: int) -> Rays:
        """Rays through the middles of `side` x `side` pixels, row by row from the upper left."""
        axes, reach = self.axes(), (self.field_of_view.deg2rad() / 2).tan()
        place = (torch.arange(side, device=axes.device, dtype=torch.float32) + 0.5) / side * 2 - 1
        down, across = torch.meshgrid(place, place, indexing="ij")
        local = torch.stack([across.flatten(), -down.flatten()], dim=-1)[None] * reach[:, None, None]
        local = torch.cat([local, torch.full_like(local[..., :1], -1.0)], dim=-1)
        directions = torch.nn.functional.normalize(local @ axes, dim=-1)
        origins = (axes[:, 2] * self.distance[:, None])[:, None].expand_as(directions)
        return Rays(origins, directions)

    def project(self, points: Float[Tensor, "n 3"], side: int) -> Float[Tensor, "b n 3"]:
        """Column and row of `points` in pictures of `side` pixels, from the upper left, and their depth."""
        local = torch.einsum("nk,bjk->bnj", points, self.axes())
        depth = self.distance[:, None] - local[..., 2]
        flat = local[..., :2] / (depth * (self.field_of_view.deg2rad() / 2).tan()[:, None])[..., None]
        return torch.stack([(1 + flat[..., 0]) * side / 2, (1 - flat[..., 1]) * side / 2, depth], -1)

    def matrices(self) -> Float[Tensor, "b 4 4"]:
        """Camera-to-world matrices in OpenGL's convention."""
        axes = self.axes()
        matrix = torch.eye(4, device=axes.device).repeat(len(self), 1, 1)
        matrix[:, :3, :3] = axes.transpose(1, 2)
        matrix[:, :3, 3] = axes[:, 2] * self.distance[:, None]
        return matrix


@dataclass(frozen=True)
class Rays:
    """Rays of B cameras with N pixels each: float32 `(B, N, 3)`, directions of length 1."""

    origins: Float[Tensor, "b n 3"]
    directions: Float[Tensor, "b n 3"]


def turntable(count: int, *, elevation: float = 15.0, distance: float = 3.0, field_of_view: float = 40.0) -> Views:
    """`count` cameras evenly around the scene, from the front on."""
    azimuths = [360.0 * number / count for number in range(count)]
    return Views.of(azimuths, elevation=elevation, distance=distance, field_of_view=field_of_view)


def gap(azimuth: float, other: float) -> float:
    """Degrees between two azimuths, 0 to 180."""
    return abs(math.fmod(math.fmod(azimuth - other + 180.0, 360.0) + 360.0, 360.0) - 180.0)
