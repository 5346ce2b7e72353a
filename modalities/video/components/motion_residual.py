"""How a clip moves, as other coefficients on the directions that its looks were learned in.

The second stage of Set-and-Sequence (Abdal et al., 2025, https://arxiv.org/abs/2502.14844, section 4.2): the identity
LoRA's A, the basis, stays as it is, and a residual R on its B learns from the sequence, so layers become W + (B + R) A.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from modalities.core.errors import PcsError
from modalities.core.peft_layers import tuned_layers
from modalities.video.adapter import Adapter
from modalities.video.components.identity_basis import IdentityBasis
from modalities.video.learner import Source

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from modalities.core.studio import Studio


class MotionResidual(Adapter):
    """Takes rank and layers from `identity_basis`, which is listed before it."""

    source: ClassVar[Source] = "clips"
    present: ClassVar[frozenset[Source]] = frozenset({"clips"})

    layers: str = ""

    def prepare(self, studio: Studio) -> None:
        basis = next((part for part in studio.components if isinstance(part, IdentityBasis)), None)
        if basis is None:
            raise PcsError("motion_residual: needs an identity_basis, listed before it.")
        for field in ("rank", "alpha", "layers", "blocks"):
            setattr(self, field, getattr(basis, field))
        super().prepare(studio)
        for network in self.networks().values():
            for layer in tuned_layers(network).values():
                if self.name in layer.lora_A:
                    layer.lora_A[self.name] = layer.lora_A[basis.name]

    def parameters(self) -> dict[str, Parameter]:
        """The residuals alone, `transformer.<module>.lora_B.weight` (out, rank)."""
        return {name: value for name, value in super().parameters().items() if ".lora_B." in name}

    def portable(self) -> dict[str, Tensor]:
        """With the basis, so that the file is a LoRA of its own."""
        basis = next(part for part in self.studio.components if isinstance(part, IdentityBasis))
        shared = {name: value for name, value in basis.portable().items() if ".lora_A." in name}
        return shared | super().portable()
