"""Differentiable volume rendering (Mildenhall et al., ECCV 2020, eq. 3). https://arxiv.org/abs/2003.08934"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from modalities.three_d.cameras import Rays, Views
from modalities.three_d.field import SceneField

Background = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rendering:
    """What B cameras see.

    Attributes:
        colours: `(B, 3, side, side)` in [0, 1], over the background.
        opacity: `(B, side, side)`, share of the light that the scene stops.
        depth: `(B, side, side)`, mean distance to what stops it; 0 where nothing does.
        points, directions: samples `(n, 3)` and the directions from which they are seen.
        weights: how much each sample is seen `(n,)`.
    """

    colours: Float[Tensor, "b 3 side side"]
    opacity: Float[Tensor, "b side side"]
    depth: Float[Tensor, "b side side"]
    points: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    weights: Float[Tensor, " n"]


def render(
    field: SceneField,
    views: Views,
    side: int,
    *,
    samples: int,
    background: Background,
    jitter: Float[Tensor, "b n"] | None = None,
    occupied: Bool[Tensor, "x y z"] | None = None,
) -> Rendering:
    """Draw the scene.

    Args:
        field: the scene.
        views: B cameras.
        side: pixels a side.
        samples: points on every ray inside the cube.
        background: colours in [0, 1] for directions `(n, 3)`.
        jitter: by which share of a step the samples of each ray are moved, 0 to 1; None takes the middle.
        occupied: cells of the cube outside of which nothing is; they are passed over.
    """
    rays = views.rays(side)
    near, far, hits = _crossing(rays)
    count, pixels = hits.shape
    shares = (
        torch.arange(samples, device=near.device)[None]
        + (torch.full_like(near[hits], 0.5) if jitter is None else jitter[hits])[:, None]
    )
    length = (far - near)[hits] / samples
    distances = near[hits][:, None] + shares * length[:, None]
    points = rays.origins[hits][:, None] + distances[..., None] * rays.directions[hits][:, None]
    density, colour = _evaluated(field, points.flatten(0, 1), occupied)
    weights = _weights(density.view(-1, samples), length)
    seen = (weights[..., None] * colour.view(-1, samples, 3)).sum(1)
    opacity = _spread_out(weights.sum(1), hits)
    depth = _spread_out((weights * distances).sum(1) / weights.sum(1).clamp(min=1e-6), hits)
    behind = background(rays.directions.flatten(0, 1)).view(count, pixels, 3)
    colours = _spread_out(seen, hits) + (1 - opacity)[..., None] * behind
    return Rendering(
        colours=colours.transpose(1, 2).unflatten(2, (side, side)),
        opacity=opacity.unflatten(1, (side, side)),
        depth=depth.unflatten(1, (side, side)),
        points=points.flatten(0, 1),
        directions=rays.directions[hits][:, None].expand_as(points).flatten(0, 1),
        weights=weights.flatten(),
    )


def _crossing(rays: Rays) -> tuple[Tensor, Tensor, Bool[Tensor, "b n"]]:
    """Where rays enter and leave the cube, and which of them do."""
    safe = torch.where(rays.directions.abs() < 1e-9, 1e-9, rays.directions)
    first, second = (-1 - rays.origins) / safe, (1 - rays.origins) / safe
    near = torch.minimum(first, second).amax(-1).clamp(min=1e-3)
    far = torch.maximum(first, second).amin(-1)
    return near, far, far > near


def _evaluated(field: SceneField, points: Tensor, occupied: Tensor | None) -> tuple[Tensor, Tensor]:
    """Density and colour at all points, 0 in cells that are not occupied."""
    if occupied is None:
        return field(points)
    cells = torch.tensor(occupied.shape, device=points.device)
    place = ((points + 1) / 2 * cells).long().clamp(min=0).minimum(cells - 1)
    there = occupied[place[:, 0], place[:, 1], place[:, 2]]
    density, colour = points.new_zeros(len(points)), points.new_zeros(len(points), 3)
    density[there], colour[there] = field(points[there])
    return density, colour


def _weights(density: Float[Tensor, "r s"], length: Float[Tensor, " r"]) -> Float[Tensor, "r s"]:
    """How much of the light at the camera comes from each sample."""
    stopped = density * length[:, None]
    passed = torch.exp(-torch.cumsum(stopped, 1) + stopped)
    return passed * (1 - torch.exp(-stopped))


def _spread_out(values: Tensor, hits: Bool[Tensor, "b n"]) -> Tensor:
    """Values of the rays that hit the cube at their places among all rays, 0 elsewhere."""
    whole = values.new_zeros(*hits.shape, *values.shape[1:])
    return whole.masked_scatter(hits.view(*hits.shape, *[1] * (values.ndim - 1)).expand_as(whole), values)
