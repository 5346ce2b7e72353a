"""Structured low-rank changes: LoHa and LoKr (LyCORIS, Yeh et al., ICLR 2024, section 3), through PEFT.

https://arxiv.org/abs/2309.14859
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modalities.core import peft_layers
from modalities.core.component import Component

if TYPE_CHECKING:
    from torch.nn import Parameter

    from modalities.core.studio import Studio


class Lycoris(Component):
    """Adds to chosen layers a Hadamard product (B1 A1) * (B2 A2), or a Kronecker product C (x) (B A), scaled."""

    kind: Literal["loha", "lokr"] = "lokr"
    rank: Annotated[int, Field(gt=0)] = 8
    alpha: Annotated[float, Field(gt=0)] | None = None
    """None means the rank, so that the scale is 1."""
    factor: int = -1
    """LoKr: size of the first Kronecker factor; -1 makes both about equal."""
    layers: str = "attention"
    """Which layers of the denoiser, as `lora` takes them."""

    def prepare(self, studio: Studio) -> None:
        from peft import LoHaConfig, LoKrConfig

        super().prepare(studio)
        backbone = studio.backbone
        common: dict[str, Any] = {
            "r": self.rank,
            "alpha": self.alpha or self.rank,
            "target_modules": backbone.select(self.layers),
        }
        if self.kind == "loha":
            config: Any = LoHaConfig(**common)
        else:
            config = LoKrConfig(**common, decompose_factor=self.factor)
        backbone.denoiser.add_adapter(config, adapter_name=peft_layers.ADAPTER)  # pyright: ignore

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<layer>.<factor>`, the factors as PEFT names them."""
        backbone = self.studio.backbone
        return {
            f"{backbone.denoiser_part}.{name}": value for name, value in peft_layers.learned(backbone.denoiser).items()
        }

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        """Fold the product into the weights while generating."""
        with peft_layers.folded([self.studio.backbone.denoiser]):
            yield
