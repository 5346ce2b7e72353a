"""Weights in the space of their singular values."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import Parameter


class Shifted(nn.Module):
    """The change of a weight by shifts of its singular values; exactly nothing where all shifts are zero."""

    left: Tensor
    values: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        left, values, right = torch.linalg.svd(weight.float().flatten(1), full_matrices=False)
        self.register_buffer("left", left)
        self.register_buffer("values", values)
        self.register_buffer("right", right)
        self.shift = Parameter(torch.zeros_like(values))

    def forward(self, weight: Float[Tensor, "out ..."]) -> Float[Tensor, "out ..."]:
        """Return the shifted weight."""
        change = torch.relu(self.values + self.shift) - self.values
        return weight + ((self.left * change) @ self.right).view_as(weight).to(weight.dtype)
