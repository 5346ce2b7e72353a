"""Soft outlines of a mesh: the share of a pixel that it covers near its edge, differentiable in its corners.

As soft rasterizers do it (Liu et al., ICCV 2019, eq. 1, https://arxiv.org/abs/1904.01786), but only along the outline,
where triangles that face the camera meet triangles that face away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

# Pixels over which the covered share falls, and how far from the outline it is looked at.
SOFTNESS, REACH = 0.35, 1.6


@dataclass(frozen=True)
class Outline:
    """What the pixels near the outline see.

    Attributes:
        pixel: (p,) numbers of the pixels, row by row.
        covered: (p,) shares in [0, 1].
    """

    pixel: Int[Tensor, " p"]
    covered: Float[Tensor, " p"]


def neighbours(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All edges (E, 2) of a closed mesh, and the two triangles (E, 2) that share each."""
    sides = np.sort(np.concatenate([faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]), 1)
    owner = np.tile(np.arange(len(faces)), 3)
    order = np.lexsort((sides[:, 1], sides[:, 0]))
    return sides[order[::2]], np.stack([owner[order[::2]], owner[order[1::2]]], 1)


def outline(
    flat: Float[Tensor, "v 2"],
    faces: Int[Tensor, "t 3"],
    edges: tuple[np.ndarray, np.ndarray],
    seen: Bool[Tensor, "side side"],
) -> Outline:
    """Look at the pixels within `REACH` of the outline.

    Args:
        flat: column and row of every vertex, from the upper left.
        faces: the triangles.
        edges: their `neighbours`.
        seen: which pixels see the mesh.
    """
    side = len(seen)
    a, b, c = (flat.detach()[faces[:, corner]] for corner in range(3))
    facing = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0] < 0
    ends, owners = (torch.from_numpy(one).to(flat.device) for one in edges)
    ends = ends[facing[owners[:, 0]] != facing[owners[:, 1]]]
    pixel = _near_edge(seen).flatten().nonzero().flatten()
    place = torch.stack([pixel % side, pixel // side], -1) + 0.5
    with torch.no_grad():
        apart = _distance(flat[ends][None], place[:, None])
        nearest = apart.argmin(1) if len(ends) else apart.new_zeros(len(pixel), dtype=torch.long)
    distance = _distance(flat[ends[nearest]], place)
    sign = torch.where(seen.flatten()[pixel], 1.0, -1.0)
    close = distance.detach() < REACH
    covered = torch.sigmoid(sign * distance / SOFTNESS)
    return Outline(pixel[close], covered[close])


def _near_edge(seen: Bool[Tensor, "side side"]) -> Bool[Tensor, "side side"]:
    """Pixels that see the mesh and have a neighbour that does not, or the other way round, one further in and out."""
    there = seen.float()[None, None]
    grown = functional.max_pool2d(there, 5, 1, 2)
    shrunk = -functional.max_pool2d(-there, 3, 1, 1)
    return ((grown > 0) & (shrunk == 0))[0, 0]


def _distance(pieces: Float[Tensor, "... 2 2"], place: Float[Tensor, "... 2"]) -> Float[Tensor, ...]:
    """How far places are from straight pieces."""
    start, way = pieces[..., 0, :], pieces[..., 1, :] - pieces[..., 0, :]
    along = ((place - start) * way).sum(-1) / way.square().sum(-1).clamp(min=1e-9)
    off = place - start - along.clamp(0, 1)[..., None] * way
    return (off.square().sum(-1) + 1e-9).sqrt()
