"""From a learned scene to a solid: where its surface lies, its mesh, and the colours that are seen of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from modalities.core.errors import RunFailed
from modalities.three_d.cameras import turntable
from modalities.three_d.field import MIRRORS, SceneField
from modalities.three_d.mesh import Mesh, isosurface
from modalities.three_d.renderer import render

CHUNK = 65536
LEVELS = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 45.0)
VIEWS, SIDE, SAMPLES = 8, 48, 96
EMPTY = 0.002
# Density below which a ray through the whole cube loses 1 %.
VISIBLE = 0.005
# How far a ray that paints a vertex starts outside of it, ends inside of it, and in how many steps.
OUTSIDE, INSIDE, RAY_SAMPLES = 0.03, 0.15, 12


@torch.no_grad()
def occupied_cells(field: SceneField, cells: int = 48) -> Bool[Tensor, "n n n"]:
    """Which of `cells`^3 cells of the cube hold anything, or border on one that does."""
    near = functional.max_pool3d(densities(field, cells + 1)[None, None], 4, stride=1, padding=1)[0, 0]
    near = functional.pad(near, (0, 1) * 3)[:cells, :cells, :cells]
    return (near > VISIBLE).to(field.planes.device)


@dataclass(frozen=True)
class Level:
    """The density at which the surface lies, and how well its outline agrees with what is seen (IoU, 0 to 1)."""

    density: float
    agreement: float


def grid_points(cells: int) -> Float[Tensor, "n 3"]:
    """`cells`^3 points over the cube from -1 to 1, z fastest."""
    axis = torch.linspace(-1, 1, cells)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)


@torch.no_grad()
def densities(field: SceneField, cells: int) -> Float[Tensor, "n n n"]:
    """Densities on `grid_points`, on the CPU."""
    device = field.planes.device
    values = [field.densities(part.to(device)).cpu() for part in grid_points(cells).split(CHUNK)]
    return torch.cat(values).view(cells, cells, cells)


@torch.no_grad()
def level_of(field: SceneField) -> Level:
    """Choose the level whose outlines agree best with the opacity that is seen from all around.

    Raises:
        RunFailed: nothing is seen.
    """
    views = turntable(VIEWS).to(field.planes.device)
    seen = render(field, views, SIDE, samples=SAMPLES, background=torch.ones_like)
    opaque = seen.opacity > 0.5
    if float(opaque.float().mean()) < EMPTY:
        raise RunFailed(
            f"the scene is empty: {float(opaque.float().mean()):.1%} of what is seen is opaque, so it has no surface. "
            "Lower the penalty (--set components.scene_regularizers.opacity=…) or train longer."
        )
    highest = _highest_on_rays(field, views)
    scores = {level: _overlap(highest > level, opaque) for level in LEVELS}
    best = max(scores, key=lambda level: scores[level])
    return Level(best, scores[best])


def mirror_of(solid: Bool[Tensor, "n n n"], least: float) -> str | None:
    """The first of `MIRRORS` along which a solid and its mirror image overlap by at least `least` (IoU)."""
    return next((name for name, axis in MIRRORS.items() if _overlap(solid, solid.flip(axis)) >= least), None)


def _highest_on_rays(field: SceneField, views) -> Tensor:
    """The highest density along the ray of each pixel, (B, side, side)."""
    highest: list[Tensor] = []
    for number in range(len(views)):
        view = views[number : number + 1]
        rays, one = view.rays(SIDE), float(view.distance)
        along = torch.linspace(one - 1.7, one + 1.7, 2 * SAMPLES, device=rays.origins.device)
        points = rays.origins[0][:, None] + along[:, None] * rays.directions[0][:, None]
        values = field.densities(points.view(-1, 3)).view(points.shape[:2])
        values = torch.where((points.abs() <= 1).all(-1), values, 0.0)
        highest.append(values.amax(1).view(SIDE, SIDE))
    return torch.stack(highest)


def _overlap(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp(min=1))


@torch.no_grad()
def mesh_of(field: SceneField, cells: int = 96) -> Mesh:
    """The surface as a closed mesh in the scene's own coordinates, its largest piece alone.

    Raises:
        RunFailed: the scene is empty.
    """
    level = level_of(field).density
    vertices, faces = isosurface(densities(field, cells).numpy(), level)
    assert len(faces), "a level that agrees with the opacity has a surface"
    placed = (vertices / (cells - 1) * 2 - 1).astype(np.float32)
    return Mesh(placed, faces).largest_part()


@torch.no_grad()
def seen_colours(field: SceneField, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """What is seen of each place (n, 3) of the surface by a ray that comes straight at it: (n, 3) in [0, 1].

    The colour at the place itself would be that of the fog in front of the surface.
    """
    depths = torch.linspace(-OUTSIDE, INSIDE, RAY_SAMPLES)
    step = (OUTSIDE + INSIDE) / RAY_SAMPLES
    found: list[Tensor] = []
    parts = (torch.from_numpy(one).split(CHUNK // RAY_SAMPLES) for one in (vertices, normals))
    for place, normal in zip(*parts, strict=True):
        points = (place[:, None] - depths[:, None] * normal[:, None]).clamp(-1, 1).to(field.planes.device)
        density, colour = field(points.view(-1, 3))
        stopped = density.view(-1, RAY_SAMPLES) * step
        weights = torch.exp(stopped - stopped.cumsum(1)) * (1 - torch.exp(-stopped)) + 1e-6
        mixed = (weights[..., None] * colour.view(-1, RAY_SAMPLES, 3)).sum(1) / weights.sum(1, keepdim=True)
        found.append(mixed.cpu())
    return torch.cat(found).numpy()
