"""The share of each pixel that a mesh covers, differentiable in its corners along its outline.

The shares are counted. Their gradient is that of soft rasterizers (Liu et al., ICCV 2019, eq. 1,
https://arxiv.org/abs/1904.01786), but only along the outline, where triangles that face the camera meet triangles that
face away and nothing of the mesh lies behind.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from modalities.three_d.raster import rasterize

# Places a side of a pixel that are counted.
FINER = 4
# Pixels over which a soft share falls, and how far from the outline it is looked at.
SOFTNESS, REACH = 0.35, 1.6


def neighbours(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All edges (E, 2) of a closed mesh, and the two triangles (E, 2) that share each."""
    sides = np.sort(np.concatenate([faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]), 1)
    owner = np.tile(np.arange(len(faces)), 3)
    order = np.lexsort((sides[:, 1], sides[:, 0]))
    return sides[order[::2]], np.stack([owner[order[::2]], owner[order[1::2]]], 1)


def covered(
    flat: Float[Tensor, "v 3"], faces: Int[Tensor, "t 3"], edges: tuple[np.ndarray, np.ndarray], side: int
) -> Float[Tensor, "side side"]:
    """How much of each pixel a closed mesh covers, from 0 to 1.

    Args:
        flat: column and row of every vertex in pixels, from the upper left, and depth above 0.
        faces: the triangles.
        edges: their `neighbours`.
        side: pixels a side.
    """
    finer = torch.cat([flat.detach()[:, :2] * FINER, flat.detach()[:, 2:]], 1)
    seen = rasterize(finer[faces], side * FINER).face >= 0
    shares = functional.avg_pool2d(seen.float()[None, None], FINER)[0, 0]
    flat = flat[:, :2]
    ends = _outer(flat.detach(), faces, edges, seen)
    pixel = _near_edge(shares).flatten().nonzero().flatten()
    if not len(ends) or not len(pixel):
        return shares
    place = torch.stack([pixel % side, pixel // side], -1) + 0.5
    with torch.no_grad():
        nearest = _distance(flat[ends][None], place[:, None]).argmin(1)
    distance = _distance(flat[ends[nearest]], place)
    soft = torch.sigmoid(torch.where(shares.flatten()[pixel] > 0.5, distance, -distance) / SOFTNESS)
    moved = torch.where(distance.detach() < REACH, soft - soft.detach(), 0)
    return (shares.flatten().index_put((pixel,), moved, accumulate=True)).view(side, side)


def _outer(
    flat: Float[Tensor, "v 2"],
    faces: Int[Tensor, "t 3"],
    edges: tuple[np.ndarray, np.ndarray],
    seen: Bool[Tensor, "fine fine"],
) -> Int[Tensor, "e 2"]:
    """The edges between triangles that face the camera and others, with nothing seen to one side of their middle."""
    a, b, c = (flat[faces[:, corner]] for corner in range(3))
    facing = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0] < 0
    ends, owners = (torch.from_numpy(one).to(flat.device) for one in edges)
    ends = ends[facing[owners[:, 0]] != facing[owners[:, 1]]]
    start, end = flat[ends].unbind(1)
    way = functional.normalize(end - start, dim=1)
    across = torch.stack([-way[:, 1], way[:, 0]], 1)
    beside = (start + end) / 2 * FINER + torch.stack([across, -across])
    free = functional.pad(~seen, (1, 1, 1, 1), value=True)
    column, row = (beside.floor().long() + 1).clamp(0, len(seen) + 1).unbind(-1)
    return ends[free[row, column].any(0)]


def _near_edge(shares: Float[Tensor, "side side"]) -> Bool[Tensor, "side side"]:
    """Pixels that are covered in part, and those up to two from them."""
    there = shares[None, None]
    grown = functional.max_pool2d(there, 5, 1, 2)
    shrunk = -functional.max_pool2d(-there, 5, 1, 2)
    return ((grown > 0) & (shrunk < 1))[0, 0]


def _distance(pieces: Float[Tensor, "... 2 2"], place: Float[Tensor, "... 2"]) -> Float[Tensor, ...]:
    """How far places are from straight pieces."""
    start, way = pieces[..., 0, :], pieces[..., 1, :] - pieces[..., 0, :]
    along = ((place - start) * way).sum(-1) / way.square().sum(-1).clamp(min=1e-9)
    off = place - start - along.clamp(0, 1)[..., None] * way
    return (off.square().sum(-1) + 1e-9).sqrt()
