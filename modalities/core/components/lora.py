"""Low-rank adaptation (Hu et al., ICLR 2022) of the denoiser and, if asked, of the text encoders.

https://arxiv.org/abs/2106.09685 — as DreamBooth-LoRA uses it, through PEFT.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from modalities.core.component import Component
from modalities.core.peft_layers import ADAPTER, ADAPTS, folded, learned, require_plain

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

    from modalities.core.studio import Studio

TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj"]


class Lora(Component):
    """Adds `scale * B A` to chosen linear and convolution layers, `scale = alpha / rank`; B starts at zero."""

    exclusive: ClassVar[str | None] = ADAPTS

    rank: Annotated[int, Field(gt=0)] = 16
    alpha: Annotated[float, Field(gt=0)] | None = None
    """None means the rank, so that the scale is 1."""
    layers: str = "attention"
    """Which layers of the denoiser: names of its selectors joined by "+", or "re:" and a regular expression."""
    text_encoder: Annotated[int, Field(ge=0)] = 0
    """Rank on the attention of the CLIP text encoders; 0 leaves them alone."""

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        backbone = studio.backbone
        self._add(backbone.denoiser, self.rank, backbone.select(self.layers))
        for encoder in self._text_encoders().values():
            self._add(encoder, self.text_encoder, TEXT_LAYERS)

    def _text_encoders(self) -> dict[str, Module]:
        """The CLIP text encoders, if they are adapted; a T5 stays as it is, as in every published recipe."""
        encoders: dict[str, Module] = self.studio.backbone.text_encoders if self.text_encoder else {}
        return {
            name: encoder
            for name, encoder in encoders.items()
            if any(module.endswith(TEXT_LAYERS[0]) for module, _ in encoder.named_modules())
        }

    def _add(self, module: Any, rank: int, layers: list[str]) -> None:
        from peft import LoraConfig

        require_plain(module, layers if module is self.studio.backbone.denoiser else [], self.name)
        alpha = rank * self.scale
        config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=layers)  # pyright: ignore
        module.add_adapter(config, adapter_name=ADAPTER)

    @property
    def scale(self) -> float:
        """Factor on the low-rank product, alpha / rank; the same for denoiser and text encoders."""
        return (self.alpha or self.rank) / self.rank

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<module>.lora_A.weight` (rank, in) and `lora_B.weight` (out, rank); text encoders alike."""
        backbone = self.studio.backbone
        modules: dict[str, Module] = {backbone.denoiser_part: backbone.denoiser} | self._text_encoders()
        return {f"{part}.{name}": value for part, module in modules.items() for name, value in learned(module).items()}

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        """Fold the product into the weights while generating, a fifth faster."""
        with folded(self.studio.backbone.modules().values()):
            yield


def low_rank_product(up: Tensor, down: Tensor) -> Tensor:
    """The weight change `up @ down` of a linear (out, in) or a convolution layer (out, in, k, k)."""
    product = up.flatten(1) @ down.flatten(1)
    return product.view(up.shape[0], *down.shape[1:])
