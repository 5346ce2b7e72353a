"""Makes an image base draw clips, and tunes it on one (Tune-A-Video, Wu et al., ICCV 2023, section 3.2).

https://arxiv.org/abs/2212.11565: self-attention looks at the first frame and the one before, a new attention over time
follows every block, and it and all queries learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PrivateAttr

from modalities.core.errors import PcsError
from modalities.video.learner import Hooked, Source

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn import Parameter

    from modalities.core.studio import Studio
    from modalities.video.backbones.inflated import Inflated


class InflatedAttention(Hooked):
    """Queries learn as changes of the base's own, and the new attention ends in zeros: untrained, it adds nothing."""

    source: ClassVar[Source] = "clips"
    present: ClassVar[frozenset[Source]] = frozenset({"clips"})

    _queries: dict[str, Any] = PrivateAttr(default_factory=dict)
    _over_time: dict[str, Any] = PrivateAttr(default_factory=dict)

    def prepare(self, studio: Studio) -> None:
        from diffusers.models.attention import BasicTransformerBlock

        super().prepare(studio)
        if self.backbone.makes_clips:
            raise PcsError("inflated_attention: makes an image base draw clips, and this base does already.")
        for name in self.backbone.select("queries"):
            self._tune(name)
        for name, block in self.backbone.denoiser.named_modules():
            if isinstance(block, BasicTransformerBlock):
                block.attn1.set_processor(SparseCausal(block.attn1.processor, self.backbone))
                self._follow(name, block)

    def _tune(self, name: str) -> None:
        """Add a full change to a query layer's answer, which begins at zero."""
        import torch

        layer: Any = self.backbone.denoiser.get_submodule(name)
        change = torch.nn.Parameter(torch.zeros_like(layer.weight, dtype=torch.float32))
        self._queries[name] = change

        def changed(_module: nn.Module, given: tuple[Any, ...], said: Tensor) -> Tensor:
            if not self._strength or self._inflated.frames == 1:
                return said
            return said + self._strength * (given[0].float() @ change.T).to(said.dtype)

        layer.register_forward_hook(changed)

    def _follow(self, name: str, block: Any) -> None:
        """Let an attention over time follow a block."""
        import torch
        from diffusers.models.attention_processor import Attention

        own, width = block.attn1, int(block.attn1.to_q.in_features)
        attention = Attention(width, heads=own.heads, dim_head=own.inner_dim // own.heads)
        torch.nn.init.zeros_(attention.to_out[0].weight)
        torch.nn.init.zeros_(attention.to_out[0].bias)
        self._over_time[name] = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(width), "attention": attention})
        self._over_time[name].to(self.backbone.device)

        def follow(_module: nn.Module, _given: tuple[Any, ...], said: Tensor) -> Tensor:
            frames, layers = self._inflated.frames, self._over_time[name]
            if not self._strength or frames == 1:
                return said
            # (clips * frames, places, width) -> (clips * places, frames, width), and back.
            rows = said.unflatten(0, (-1, frames)).transpose(1, 2)
            seen = layers["attention"](layers["norm"](rows.flatten(0, 1).float())).unflatten(0, rows.shape[:2])
            return said + self._strength * seen.transpose(1, 2).flatten(0, 1).to(said.dtype)

        block.register_forward_hook(follow)

    @property
    def _inflated(self) -> Inflated:
        return self.backbone  # pyright: ignore

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<query layer>.change` (out, in), and of each block `unet.<block>.over_time.…`."""
        part = self.backbone.denoiser_part
        found = {f"{part}.{name}.change": change for name, change in self._queries.items()}
        for name, layers in self._over_time.items():
            found |= {f"{part}.{name}.over_time.{key}": value for key, value in layers.named_parameters()}
        return found


class SparseCausal:
    """Self-attention of each frame to the first one and to the one before it (Tune-A-Video, eq. 2)."""

    def __init__(self, within: Any, backbone: Any) -> None:
        self._within, self._backbone = within, backbone

    def __call__(self, attention: Any, hidden_states: Tensor, *given: Any, **named: Any) -> Tensor:
        import torch

        frames = self._backbone.frames
        if frames == 1:
            return self._within(attention, hidden_states, *given, **named)
        clips = hidden_states.unflatten(0, (-1, frames))
        first = clips[:, :1].expand_as(clips)
        before = torch.cat([clips[:, :1], clips[:, :-1]], 1)
        named["encoder_hidden_states"] = torch.cat([first, before], 2).flatten(0, 1)
        return self._within(attention, hidden_states, **named)
