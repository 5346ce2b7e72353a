"""Orthogonal fine-tuning (OFT, Qiu et al., NeurIPS 2023, section 4), through PEFT.

https://arxiv.org/abs/2306.07280
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from modalities.core import peft_layers
from modalities.core.component import Component

if TYPE_CHECKING:
    from torch.nn import Parameter

    from modalities.core.studio import Studio


class Oft(Component):
    """Turns the neurons of chosen layers: W' = R W, R orthogonal and block-diagonal, so angles between them stay."""

    block: Annotated[int, Field(gt=1)] = 16
    """Side of a block; it must divide the inputs of every chosen layer."""
    layers: str = "attention"
    """Which layers of the denoiser, as `lora` takes them."""

    def prepare(self, studio: Studio) -> None:
        from peft import OFTConfig

        super().prepare(studio)
        backbone = studio.backbone
        config = OFTConfig(r=0, oft_block_size=self.block, target_modules=backbone.select(self.layers))
        backbone.denoiser.add_adapter(config, adapter_name=peft_layers.ADAPTER)  # pyright: ignore

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<layer>.oft_R.weight`: the skew-symmetric generators of the rotations."""
        backbone = self.studio.backbone
        return {
            f"{backbone.denoiser_part}.{name}": value for name, value in peft_layers.learned(backbone.denoiser).items()
        }

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        """Fold the rotations into the weights while generating."""
        with peft_layers.folded([self.studio.backbone.denoiser]):
            yield
