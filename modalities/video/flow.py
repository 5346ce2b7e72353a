"""Where pixels go from frame to frame: block matching with sub-pixel peaks, checked both ways.

Small, dependency-free and exact to repeat: every shift up to `RADIUS` pixels is tried on pictures of `SIDE` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

SIDE = 64
RADIUS = 7
WINDOW = 9
# Staying is preferred to going, where pictures are so flat that every shift fits.
STILL = 2e-3
# Pixels by which a way and its way back may differ.
ROUND_TRIP = 1.0


@dataclass(frozen=True)
class Flow:
    """Motion from one frame to the next: `shift` (2, SIDE, SIDE) pixels, x then y; `sure` where the way back agrees."""

    shift: Float[Tensor, "2 h w"]
    sure: Bool[Tensor, "h w"]


def small(frames: Float[Tensor, "f 3 h w"]) -> Float[Tensor, "f 3 s s"]:
    """Frames at the size at which flow is measured."""
    if frames.shape[-1] == SIDE and frames.shape[-2] == SIDE:
        return frames
    return functional.interpolate(frames, (SIDE, SIDE), mode="area")


def flows(frames: Float[Tensor, "f 3 h w"]) -> list[Flow]:
    """The flow between all neighbouring frames, in [0, 1], any size."""
    pictures = small(frames)
    return [_checked(pictures[i], pictures[i + 1]) for i in range(len(pictures) - 1)]


def _checked(here: Tensor, there: Tensor) -> Flow:
    forth, back = _matched(here, there), _matched(there, here)
    returned = _looked_up(back, forth)
    return Flow(forth, (forth + returned).norm(dim=0) <= ROUND_TRIP)


def _matched(here: Tensor, there: Tensor) -> Tensor:
    """For each pixel of `here`, the shift at which its surroundings fit `there` best, (2, h, w)."""
    reach = 2 * RADIUS + 1
    padded = functional.pad(there[None], [RADIUS] * 4, mode="replicate")
    height, width = here.shape[-2:]
    shifted = padded.unfold(2, height, 1).unfold(3, width, 1)[0]
    costs = (shifted - here[:, None, None]).abs().mean(0).flatten(0, 1)
    costs = functional.avg_pool2d(costs[:, None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[:, 0]
    steps = torch.arange(reach, dtype=torch.float32) - RADIUS
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    costs = costs + STILL * torch.hypot(rows, columns).flatten()[:, None, None] / RADIUS
    best = costs.argmin(0)
    row, column = best // reach, best % reach
    cube = costs.unflatten(0, (reach, reach))
    return torch.stack([column - RADIUS + _peak(cube, row, column, 1), row - RADIUS + _peak(cube, row, column, 0)])


def _peak(cube: Tensor, row: Tensor, column: Tensor, axis: int) -> Tensor:
    """Where between whole shifts the lowest cost lies along an axis, by a parabola through three."""
    reach = cube.shape[0]
    place = (row, column)[axis]
    y, x = torch.meshgrid(torch.arange(cube.shape[2]), torch.arange(cube.shape[3]), indexing="ij")

    def at(offset: int) -> Tensor:
        moved = (place + offset).clamp(0, reach - 1)
        return cube[moved, column, y, x] if axis == 0 else cube[row, moved, y, x]

    low, middle, high = at(-1), at(0), at(1)
    bend = low - 2 * middle + high
    inner = (place > 0) & (place < reach - 1) & (bend > 1e-6)
    return torch.where(inner, ((low - high) / (2 * bend.clamp(min=1e-6))).clamp(-0.5, 0.5), 0.0)


def _looked_up(values: Tensor, shift: Tensor) -> Tensor:
    """`values` (C, h, w) where `shift` leads."""
    height, width = shift.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([2 * (x + shift[0]) / (width - 1) - 1, 2 * (y + shift[1]) / (height - 1) - 1], -1)
    return functional.grid_sample(values[None], grid[None], padding_mode="border", align_corners=True)[0]


def warp_error(frames: Float[Tensor, "f 3 h w"]) -> float:
    """Mean absolute difference of each frame and the next one brought back along the flow, where that is sure."""
    pictures, errors = small(frames), []
    for number, flow in enumerate(flows(frames)):
        back = _looked_up(pictures[number + 1], flow.shift)
        errors.append((back - pictures[number]).abs().mean(0)[flow.sure].mean())
    return float(torch.stack(errors).nanmean())


def camera_of(flow: Flow) -> Float[Tensor, " 2"]:
    """The shift that most of the picture shares: the median along its border, where the subject seldom is."""
    border = torch.ones_like(flow.sure)
    border[8:-8, 8:-8] = False
    picked = border & flow.sure
    if int(picked.sum()) < 32:
        return torch.zeros(2)
    return flow.shift[:, picked].median(1).values
