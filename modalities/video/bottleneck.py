"""Adapters that run beside whole sublayers of a denoiser: down, a nonlinearity, up, added to what the sublayer says.

As DreamVideo has them (Wei et al., CVPR 2024, section 3.1, https://arxiv.org/abs/2312.04433).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PrivateAttr

from modalities.video.learner import Hooked

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn import Parameter

    from modalities.core.studio import Studio

TAIL = re.compile(r"\.(to_\w+(\.0)?|net\.0\.proj|net\.2)$")


class Bottleneck(Hooked):
    """Adds `up(gelu(down(x)))` beside every sublayer that `layers` are part of; `up` begins at zero."""

    rank: Annotated[int, Field(gt=0)] = 32
    layers: str

    _beside: dict[str, Any] = PrivateAttr(default_factory=dict)
    _guides: dict[str, Any] = PrivateAttr(default_factory=dict)

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        denoiser = self.backbone.denoiser
        for name in dict.fromkeys(TAIL.sub("", layer) for layer in self.backbone.select(self.layers)):
            self._add(name, denoiser.get_submodule(name))

    def guide_width(self) -> int:
        """Width of what each bottleneck is told besides its input; 0 for nothing."""
        return 0

    def guide(self) -> Tensor | None:
        """What they are told now, `(B, width)`."""
        return None

    def _add(self, name: str, sublayer: nn.Module) -> None:
        from torch import nn

        first: Any = next(layer for layer in sublayer.modules() if isinstance(layer, nn.Linear))
        width, device = int(first.in_features), self.backbone.device
        up = nn.Linear(self.rank, width)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        # A list, so that the denoiser does not count it among its own layers.
        self._beside[name] = nn.Sequential(nn.Linear(width, self.rank), nn.GELU(), up).to(device)
        if self.guide_width():
            self._guides[name] = nn.Linear(self.guide_width(), width).to(device)

        def beside(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], said: Any) -> Any:
            if not self._strength:
                return said
            x = given[0] if given else named["hidden_states"]
            added = self._strength * self._beside[name](self._guided(name, x.float()))
            whole = said[0] if isinstance(said, tuple) else said
            changed = whole + added.to(whole.dtype)
            return (changed, *said[1:]) if isinstance(said, tuple) else changed

        sublayer.register_forward_hook(beside, with_kwargs=True)

    def _guided(self, name: str, x: Tensor) -> Tensor:
        """Add what it is told to every token of its clip."""
        told = self.guide()
        if told is None:
            return x
        return x + self._guides[name](told).repeat_interleave(len(x) // len(told), 0)[:, None]

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<sublayer>.beside.0.weight` (rank, width), `.beside.2.weight` (width, rank), their biases, guides."""
        part = self.backbone.denoiser_part
        found: dict[str, Parameter] = {}
        for kind, nets in (("beside", self._beside), ("guide", self._guides)):
            for name, net in nets.items():
                found |= {f"{part}.{name}.{kind}.{key}": value for key, value in net.named_parameters()}
        return found

    def told(self) -> dict[str, object]:
        return {"rank": self.rank, "layers": self.layers}
