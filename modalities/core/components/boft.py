"""Orthogonal fine-tuning by butterfly factors (BOFT, Liu et al., ICLR 2024, section 4).

https://arxiv.org/abs/2311.06243
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.peft_layers import bare_layer

if TYPE_CHECKING:
    from torch.nn import Parameter

    from modalities.core.butterfly import Rotated
    from modalities.core.studio import Studio


class Boft(Component):
    """Turns the neurons of chosen layers by a product of sparse rotations, W' = s (B_1 … B_m W), and scales them.

    A kernel counts as the matrix (out, in * k * k). PEFT's own falls back to one factor, which is OFT, wherever it
    cannot compile its kernel; this one is the same everywhere.
    """

    layers: str = "attention"
    """Which layers of the denoiser, as `lora` takes them."""
    block: Annotated[int, Field(gt=1)] = 8
    """Side of a block; times 2 to the power of `factors` - 1 it must divide the inputs of every chosen layer."""
    factors: Annotated[int, Field(gt=0, le=6)] = 2
    """How many rotations are multiplied; 1 is OFT with a scale."""

    _turned: dict[str, Rotated] = PrivateAttr(default_factory=dict)

    def prepare(self, studio: Studio) -> None:
        from torch.nn.utils import parametrize

        from modalities.core.butterfly import Rotated

        super().prepare(studio)
        backbone = studio.backbone
        for name in backbone.select(self.layers):
            layer = bare_layer(backbone.denoiser, name, self.name)
            rotated = Rotated(layer.weight, self.block, self.factors).to(backbone.device)  # pyright: ignore
            parametrize.register_parametrization(layer, "weight", rotated, unsafe=True)
            self._turned[f"{backbone.denoiser_part}.{name}"] = rotated

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<layer>.generators` (factors, blocks, block, block) and `unet.<layer>.scale` (out,)."""
        return {f"{name}.{key}": value for name, one in self._turned.items() for key, value in one.named_parameters()}

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        """Compute every weight once for all steps of the sampler."""
        import torch
        from torch.nn.utils import parametrize

        with torch.no_grad(), parametrize.cached():
            yield
