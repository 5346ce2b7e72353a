"""Keys and values of the text's start token stay as they are for learning (Custom Diffusion, Kumari et al., CVPR 2023).

https://arxiv.org/abs/2212.04488 — as its released code has it; every prompt begins with that token.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.studio import Studio


class HeldStartToken(Component):
    """No gradient reaches weights or words through the first token of a text; list it behind adapters."""

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        layers = [
            part for name, part in studio.backbone.denoiser.named_modules() if re.search(r"attn2\.to_[kv]$", name)
        ]
        if not layers:
            raise PcsError("held_start_token: the base has no cross-attention.")
        for layer in layers:
            layer.register_forward_hook(_held)


def _held(layer: Any, args: Any, output: Tensor) -> Tensor:
    import torch

    return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)
