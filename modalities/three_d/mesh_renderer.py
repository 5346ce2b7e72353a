"""Differentiable pictures of the zero surface of values on a grid, on the CPU.

A pixel shows the colour at the point of the mesh that its middle sees, which moves with the vertices, and as much of
the background as the mesh leaves free. Outlines in front of the mesh itself are hard.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from modalities.three_d.cameras import Views
from modalities.three_d.mesh import crossed_edges
from modalities.three_d.outline import covered, neighbours
from modalities.three_d.raster import rasterize
from modalities.three_d.renderer import Background, Rendering


def zero_surface(values: Float[Tensor, "n n n"]) -> tuple[Float[Tensor, "v 3"], Tensor]:
    """Where `values` fall below zero in the cube from -1 to 1: vertices, differentiable, and faces (T, 3)."""
    cells = len(values)
    edges, faces = crossed_edges(values.detach().cpu().numpy().copy(), 0.0)
    ends = torch.from_numpy(edges).to(values.device)
    inner, outer = values.flatten()[ends].unbind(1)
    # Values on the border count as below zero: what crosses there does so beside its inner point.
    apart = torch.where(inner * outer < 0, inner - outer, inner.detach() * 0 + 1)
    share = torch.where(inner * outer < 0, inner / apart, 0.5).clamp(0.02, 0.98)[:, None]
    first, second = (torch.stack(torch.unravel_index(one, values.shape), -1) / (cells - 1) * 2 - 1 for one in ends.T)
    return first + share * (second - first), torch.from_numpy(faces).long().to(values.device)


def draw_mesh(
    values: Float[Tensor, "n n n"],
    paint: Callable[[Tensor], Tensor],
    views: Views,
    side: int,
    background: Background,
) -> Rendering:
    """Draw the zero surface of `values`.

    Args:
        values: above 0 inside.
        paint: colours (n, 3) in [0, 1] at points (n, 3).
        views: B cameras.
        side: pixels a side.
        background: colours in [0, 1] for directions (n, 3).
    """
    vertices, faces = zero_surface(values)
    edges, rays = neighbours(faces.cpu().numpy()), views.rays(side)
    shown: list[tuple[Tensor, ...]] = []
    for flat, origins, directions in zip(views.project(vertices, side), rays.origins, rays.directions, strict=True):
        seen = rasterize(flat[faces], side)
        there = (seen.face >= 0).flatten()
        points = (vertices[faces[seen.face[seen.face >= 0]]] * seen.shares[seen.face >= 0][..., None]).sum(1)
        shades = paint(points)
        colours = shades.new_zeros(side * side, 3).index_put((there.nonzero().flatten(),), shades)
        colours = _spread(colours, there)
        opacity = covered(flat, faces, edges, side).view(-1, 1)
        depth = colours.new_zeros(side * side).index_put(
            (there.nonzero().flatten(),), (points - origins[there]).norm(dim=1)
        )
        shown.append(
            (colours * opacity + background(directions) * (1 - opacity), opacity, depth, points, directions[there])
        )
    pictures, opacity, depth, points, directions = zip(*shown, strict=True)
    places = torch.cat(points)
    return Rendering(
        colours=torch.stack(pictures).transpose(1, 2).unflatten(2, (side, side)),
        opacity=torch.stack(opacity).view(-1, side, side),
        depth=torch.stack(depth).view(-1, side, side),
        points=places,
        directions=torch.cat(directions),
        weights=torch.ones_like(places[:, 0]),
    )


def _spread(colours: Float[Tensor, "p 3"], there: Bool[Tensor, " p"]) -> Float[Tensor, "p 3"]:
    """Give the pixels around what is seen the mean colour of their neighbours that are."""
    side = round(len(there) ** 0.5)
    known = there.float().view(1, 1, side, side)
    total, near = (functional.avg_pool2d(one, 5, 1, 2) for one in (colours.T.view(1, 3, side, side), known))
    around = (total / near.clamp(min=1e-6)).view(3, -1).T
    return torch.where(there[:, None], colours, around)
