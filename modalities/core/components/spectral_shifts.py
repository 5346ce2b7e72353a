"""Fine-tuning in the compact space of singular values (SVDiff, Han et al., ICCV 2023, section 3.2).

https://arxiv.org/abs/2303.11305
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from pydantic import PrivateAttr
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.utils import parametrize

from modalities.core.component import Component

if TYPE_CHECKING:
    from modalities.core.studio import Studio


class SpectralShifts(Component):
    """Shifts the singular values of chosen layers: W' = U diag(relu(s + d)) V^T, where d learns and begins at zero.

    A kernel counts as the matrix (out, in * k * k), as in the paper. What is learned is a number for each singular
    value, thousands of times fewer than weights; rates are a thousand times those of full fine-tuning.
    """

    layers: str = "spatial+convolutions"
    """Which layers of the denoiser, as `lora` takes them."""

    _shifts: dict[str, Parameter] = PrivateAttr(default_factory=dict)

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        backbone = studio.backbone
        for name in backbone.select(self.layers):
            layer = backbone.denoiser.get_submodule(name)
            shifted = _Shifted(layer.weight.detach())  # pyright: ignore
            parametrize.register_parametrization(layer, "weight", shifted, unsafe=True)
            self._shifts[f"{backbone.denoiser_part}.{name}"] = shifted.shift

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<layer>` -> (number of singular values,)."""
        return dict(self._shifts)

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        """Compute every weight once for all steps of the sampler."""
        with torch.no_grad(), parametrize.cached():
            yield


class _Shifted(nn.Module):
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
