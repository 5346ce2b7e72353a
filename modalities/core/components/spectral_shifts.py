"""Fine-tuning in the compact space of singular values (SVDiff, Han et al., ICCV 2023, section 3.2).

https://arxiv.org/abs/2303.11305
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from modalities.core.component import Component
from modalities.core.peft_layers import bare_layer

if TYPE_CHECKING:
    from torch.nn import Parameter

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
        from torch.nn.utils import parametrize

        from modalities.core.spectrum import Shifted

        super().prepare(studio)
        backbone = studio.backbone
        for name in backbone.select(self.layers):
            layer = bare_layer(backbone.denoiser, name, self.name)
            shifted = Shifted(layer.weight.detach())  # pyright: ignore
            parametrize.register_parametrization(layer, "weight", shifted, unsafe=True)
            self._shifts[f"{backbone.denoiser_part}.{name}"] = shifted.shift

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<layer>` -> (number of singular values,)."""
        return dict(self._shifts)

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        """Compute every weight once for all steps of the sampler."""
        import torch
        from torch.nn.utils import parametrize

        with torch.no_grad(), parametrize.cached():
            yield
