"""The network of NeTI (Alaluf et al., 2023, section 4.1): Fourier features of (time, layer), two layers, one head."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

FEATURES = 1024
# Spread of the frequencies, in radians over all of time and from one layer to the next.
SIGMA_TIME, SIGMA_LAYER = 30.0, 2.0
ANCHOR_TIMES = 10


class NeuralMapper(nn.Module):
    """Maps times to `rows` vectors of `width` for each of `layers` layers.

    The first layer compares the code of a place with those of a grid of anchors, and begins as just that.
    """

    frequencies: Tensor

    def __init__(self, layers: int, hidden: int, rows: int, width: int) -> None:
        super().__init__()
        self._layers, self._rows = layers, rows
        spread = torch.tensor([SIGMA_TIME, SIGMA_LAYER])
        self.register_buffer("frequencies", torch.randn(FEATURES, 2) * spread, persistent=False)
        self.anchors = nn.Linear(2 * FEATURES, ANCHOR_TIMES * layers)
        self.inner = nn.Sequential(
            nn.Linear(ANCHOR_TIMES * layers, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
            nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
        )  # fmt: skip
        self.head = nn.Linear(hidden, rows * width)
        with torch.no_grad():
            grid = self._code(torch.arange(ANCHOR_TIMES) / ANCHOR_TIMES)
            self.anchors.weight.copy_(grid.flatten(0, 1))
            self.anchors.bias.zero_()

    def _code(self, time: Float[Tensor, " n"]) -> Float[Tensor, "n layers code"]:
        """Unit vectors that tell places apart."""
        layer = torch.arange(self._layers, device=time.device, dtype=torch.float32)
        place = torch.stack(torch.broadcast_tensors(time.float()[:, None], layer), dim=-1)
        angles = place @ self.frequencies.T
        return torch.cat([angles.sin(), angles.cos()], dim=-1) / math.sqrt(FEATURES)

    def forward(self, time: Float[Tensor, " n"], keep: int | None = None) -> Float[Tensor, "n layers rows width"]:
        """What to say at the times (shares of the whole); only the first `keep` hidden units speak."""
        seen = self.inner(self.anchors(self._code(time)))
        if keep is not None:
            seen = seen * (torch.arange(seen.shape[-1], device=seen.device) < keep)
        return self.head(seen).unflatten(-1, (self._rows, -1))
