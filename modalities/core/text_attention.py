"""Where each word of a prompt was looked at while a denoiser answered, with gradients: for losses on attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modalities.core.attention import Attend, Place, maps, open_attention
from modalities.core.subject_mask import finest


class TextAttention:
    """Keeps the cross-attention of a denoiser's last answer that took gradients, the mean over its heads."""

    def __init__(self, denoiser: nn.Module) -> None:
        self._seen: dict[str, Tensor] = {}
        open_attention(denoiser, self._look)

    def _look(self, place: Place, attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if place.crosses and torch.is_grad_enabled():
            self._seen[place.name] = maps(query, key).mean(1)
        return attend(query, key, value)

    def of(self, row: int, places: Sequence[int]) -> Float[Tensor, "side side"]:
        """How much each part of item `row` took of some places of its prompt, over the most that any part took."""
        looks = finest([one[row, :, list(places)].mean(1) for one in self._seen.values()]).mean(0)
        side = round(len(looks) ** 0.5)
        return (looks / looks.max()).view(side, side)

    def forget(self) -> None:
        """Let go of what was kept, and of the graph behind it."""
        self._seen = {}
