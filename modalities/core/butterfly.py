"""Rotations as products of sparse ones, the factors of a butterfly network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import Parameter

from modalities.core.errors import PcsError


class Rotated(nn.Module):
    """A weight whose neurons are turned by `factors` block-diagonal rotations, each of which meets other inputs.

    Factor i turns blocks of inputs that lie block * 2**i / 2 apart in halves, so that m factors reach 2**(m-1) * block
    inputs. A rotation is Cayley's (I + Q) (I - Q)^-1, Q = `generators` - their transpose; all begin as no rotation.

    Raises:
        PcsError: the inputs cannot be divided that way.
    """

    def __init__(self, weight: Tensor, block: int, factors: int) -> None:
        super().__init__()
        inputs = weight[0].numel()
        if block % 2 or inputs % (block * 2 ** (factors - 1)):
            raise PcsError(f"boft: {factors} factors of blocks of {block} do not divide a layer of {inputs} inputs.")
        self.generators = Parameter(torch.zeros(factors, inputs // block, block, block))
        self.scale = Parameter(torch.ones(len(weight)))

    def forward(self, weight: Float[Tensor, "out ..."]) -> Float[Tensor, "out ..."]:
        """Return the turned and scaled weight."""
        turned = weight.float().flatten(1)
        skew = self.generators - self.generators.mT
        one = torch.eye(skew.shape[-1], device=skew.device)
        for number, rotation in enumerate(torch.linalg.solve(one - skew, one + skew, left=False)):
            turned = _turn(turned, rotation, 2**number * (skew.shape[-1] // 2))
        return (self.scale[:, None] * turned).view_as(weight).to(weight.dtype)


def _turn(rows: Float[Tensor, "out inputs"], rotation: Float[Tensor, "blocks b b"], apart: int) -> Tensor:
    """Turn blocks of inputs, gathered from pairs of stretches of `apart` inputs."""
    paired = rows.unflatten(1, (-1, 2, apart)).transpose(2, 3).flatten(1)
    turned = torch.einsum("nij,onj->oni", rotation, paired.unflatten(1, (len(rotation), -1))).flatten(1)
    return turned.unflatten(1, (-1, apart, 2)).transpose(2, 3).flatten(1)
