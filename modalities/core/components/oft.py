"""Orthogonal fine-tuning (OFT, Qiu et al., NeurIPS 2023, section 4), through PEFT.

https://arxiv.org/abs/2306.07280
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from modalities.core.errors import PcsError
from modalities.core.peft_layers import PeftComponent

if TYPE_CHECKING:
    from modalities.core.studio import Studio


class Oft(PeftComponent):
    """Turns the neurons of chosen layers: W' = R W, R orthogonal and block-diagonal, so angles between them stay.

    Learns `oft_R.weight`, the skew-symmetric generators of the rotations.
    """

    block: Annotated[int, Field(gt=1)] = 16
    """Side of a block; it must divide the inputs of every chosen layer."""

    def config(self, layers: list[str]) -> Any:
        from peft import OFTConfig

        # PEFT's default is a series that is orthogonal only near the start.
        return OFTConfig(r=0, oft_block_size=self.block, use_cayley_neumann=False, target_modules=layers)

    def prepare(self, studio: Studio) -> None:
        denoiser = studio.backbone.denoiser
        for name in studio.backbone.select(self.layers):
            # PEFT turns each pixel's patch and adds the patches where they overlap, so the start is not the base.
            if max(getattr(denoiser.get_submodule(name), "kernel_size", (1,))) > 1:
                raise PcsError(
                    f"oft.layers: {self.layers} holds {name}, a convolution of several pixels, which OFT cannot turn "
                    "here; choose layers without such, for example spatial."
                )
        super().prepare(studio)
