"""Structured low-rank changes: LoHa and LoKr (LyCORIS, Yeh et al., ICLR 2024, section 3), through PEFT.

https://arxiv.org/abs/2309.14859
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from modalities.core.peft_layers import PeftComponent


class Lycoris(PeftComponent):
    """Adds to chosen layers a Hadamard product (B1 A1) * (B2 A2), or a Kronecker product C (x) (B A), scaled."""

    kind: Literal["loha", "lokr"] = "lokr"
    rank: Annotated[int, Field(gt=0)] = 8
    alpha: Annotated[float, Field(gt=0)] | None = None
    """None means the rank, so that the scale is 1."""
    factor: int = -1
    """LoKr: size of the first Kronecker factor; -1 makes both about equal."""

    @property
    def scale(self) -> float:
        """Factor on the product, alpha / rank."""
        return (self.alpha or self.rank) / self.rank

    def config(self, layers: list[str]) -> Any:
        from peft import LoHaConfig, LoKrConfig

        common: dict[str, Any] = {"r": self.rank, "alpha": self.alpha or self.rank, "target_modules": layers}
        if self.kind == "loha":
            return LoHaConfig(**common)
        return LoKrConfig(**common, decompose_factor=self.factor)
