"""How far each pixel may go, and what is left of a change after it is kept to that and to whole levels."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from protect.recipe import Budget

# A patch whose levels spread this much counts as busy.
BUSY = 12.0
PATCH = 7


def radius(budget: Budget, levels: Float[Tensor, "c h w"], visible: Float[Tensor, "h w"]) -> Float[Tensor, "1 h w"]:
    """Largest change of every pixel in levels; 0 where nothing is visible, less where the photo is flat if asked."""
    luma = levels.mean(0, keepdim=True)
    share = torch.ones_like(luma)
    if budget.texture:
        edge = PATCH // 2
        padded = functional.pad(luma[None], (edge, edge, edge, edge), mode="replicate")
        mean = functional.avg_pool2d(padded, PATCH, 1)
        spread = (functional.avg_pool2d(padded**2, PATCH, 1) - mean**2).clamp(min=0).sqrt()[0]
        share = 1 - budget.texture * (1 - (spread / BUSY).clamp(max=1))
    return budget.levels * share * visible


def kept(
    delta: Float[Tensor, "c h w"], reach: Float[Tensor, "1 h w"], levels: Float[Tensor, "c h w"]
) -> Float[Tensor, "c h w"]:
    """The nearest change inside the budget that leaves every value in 0..255."""
    inside = torch.minimum(torch.maximum(delta, -reach), reach)
    return torch.minimum(torch.maximum(inside, -levels), 255 - levels)


def whole(delta: Float[Tensor, "c h w"], reach: Float[Tensor, "1 h w"]) -> Int[Tensor, "c h w"]:
    """The change in whole levels, never beyond the budget: 6.4 allows 6, and 6.6 too."""
    limit = reach.floor()
    return torch.minimum(torch.maximum(delta.round(), -limit), limit).to(torch.int16)
