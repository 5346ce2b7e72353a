"""Weight-decomposed low-rank adaptation (DoRA, Liu et al., ICML 2024, equation 5), through PEFT.

https://arxiv.org/abs/2402.09353
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from modalities.core.peft_layers import PeftComponent


class Dora(PeftComponent):
    """Learns length and direction of each neuron apart: W' = m (W + scale B A) / |W + scale B A|, m from |W|.

    Learns LoRA's two factors and `lora_magnitude_vector.weight`, m, a number for each output.
    """

    rank: Annotated[int, Field(gt=0)] = 16
    alpha: Annotated[float, Field(gt=0)] | None = None
    """None means the rank, so that the scale is 1."""

    @property
    def scale(self) -> float:
        """Factor on the low-rank product, alpha / rank."""
        return (self.alpha or self.rank) / self.rank

    def config(self, layers: list[str]) -> Any:
        from peft import LoraConfig

        alpha: Any = self.alpha or self.rank
        return LoraConfig(
            r=self.rank, lora_alpha=alpha, use_dora=True, init_lora_weights="gaussian", target_modules=layers
        )
