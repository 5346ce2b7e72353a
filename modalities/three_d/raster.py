"""Which triangle each pixel sees, and where on it: a z-buffer on the CPU, its places differentiable in the corners."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Fragments:
    """What the pixels of one picture see.

    Attributes:
        face: `(side, side)`, number of the triangle, -1 where there is none.
        shares: `(side, side, 3)`, how much each of its corners counts there, in space; 0 where there is none.
    """

    face: Int[Tensor, "side side"]
    shares: Float[Tensor, "side side 3"]


def rasterize(corners: Float[Tensor, "t 3 3"], side: int) -> Fragments:
    """Draw triangles on `side` x `side` pixels.

    Args:
        corners: of each triangle, as column and row in pixels from the upper left, and depth above 0; the nearest is
            seen. Triangles that pass behind the camera are not cut.
        side: pixels a side.
    """
    face, pixel, place = _candidates(corners.detach()[..., :2], side)
    flat = _shares(corners.detach()[face][..., :2], place)
    inside = (flat >= 0).all(-1)
    face, pixel, place = face[inside], pixel[inside], place[inside]
    near = (flat[inside] / corners.detach()[face][..., 2]).sum(-1)
    nearest = near.new_zeros(side * side).scatter_reduce(0, pixel, near, "amax")
    first = torch.where(near == nearest[pixel], face, len(corners))
    seen = torch.full((side * side,), len(corners), device=face.device).scatter_reduce(0, pixel, first, "amin")
    filled = (seen < len(corners)).nonzero().flatten()
    chosen = corners[seen[filled]]
    shares = _shares(chosen[..., :2], torch.stack([filled % side, filled // side], -1) + 0.5) / chosen[..., 2]
    shares = shares / shares.sum(-1, keepdim=True)
    whole = shares.new_zeros(side * side, 3).index_put((filled,), shares)
    return Fragments(torch.where(seen < len(corners), seen, -1).view(side, side), whole.view(side, side, 3))


def _candidates(flat: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of all pixels whose middle lies in the box around a triangle: the triangle, the pixel, and its middle."""
    low = (flat.amin(1) - 0.5).ceil().clamp(min=0).long()
    high = (flat.amax(1) - 0.5).floor().clamp(max=side - 1).long()
    size = (high - low + 1).clamp(min=0)
    count = size.prod(1)
    face = torch.repeat_interleave(torch.arange(len(flat), device=flat.device), count)
    within = torch.arange(len(face), device=flat.device) - (count.cumsum(0) - count)[face]
    column, row = low[face, 0] + within % size[face, 0], low[face, 1] + within // size[face, 0]
    return face, row * side + column, torch.stack([column, row], -1) + 0.5


def _shares(flat: Float[Tensor, "n 3 2"], place: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Barycentric shares of places in the plane; flat triangles have none, below 0."""
    a, b, c = flat.unbind(1)
    area = _cross(b - a, c - a)
    shares = torch.stack([_cross(c - b, place - b), _cross(a - c, place - c), _cross(b - a, place - a)], -1)
    usable = area.abs() > 1e-12
    return torch.where(usable[:, None], shares / torch.where(usable, area, 1.0)[:, None], -1.0)


def _cross(one: Tensor, other: Tensor) -> Tensor:
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
