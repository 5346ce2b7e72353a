"""Greedy choice of the diffusion times that a photo's gradient is largest at (SimAC, Wang et al., CVPR 2024, alg. 1).

https://arxiv.org/abs/2312.07865
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modalities.core.draws import generator

if TYPE_CHECKING:
    from protect.cloak import Cloak

CANDIDATES, DROPPED, LEFT, ROUNDS = 5, 20, 100, 50


def chosen(cloak: Cloak, row: int) -> Tensor:
    """The times of one photo, `(n,)`; its change is as it was afterwards.

    Each round asks at five times, drops those near the one with the smallest gradient, and takes a step at the one
    with the largest, until a tenth is left of a thousand.
    """
    canvas, schedule = cloak.canvases[row], cloak.backbone.schedule
    times = schedule.times
    before, momentum = canvas.delta, canvas.momentum
    draw = generator(cloak.recipe.train.seed, "choose times", row)
    for number in range(ROUNDS):
        if len(times) <= LEFT * schedule.length // 1000:
            break
        picks = times[torch.randperm(len(times), generator=draw)[:CANDIDATES]]
        gradients: list[Tensor] = []
        for pick in picks:
            canvas.times = pick[None]
            gradients += cloak.ask([row], number)[0]
        sizes = [float(gradient.abs().sum()) for gradient in gradients]
        lowest, highest = sizes.index(min(sizes)), sizes.index(max(sizes))
        times = times[(times - picks[lowest]).abs() > DROPPED * schedule.length / 1000]
        cloak.move(canvas, gradients[highest], 0)
    canvas.delta, canvas.momentum = before, momentum
    return times
