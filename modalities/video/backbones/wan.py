"""Wan 2.1 and 2.2 (Wan team, 2025): rectified flow over clips in one attention of space and time.

https://arxiv.org/abs/2503.20314
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modalities.core.backbone import Conditioning
from modalities.core.schedule import FlowSchedule
from modalities.video.joint import JointBackbone

ATTENTION = r"(to_q|to_k|to_v|to_out\.0)$"


class Wan(JointBackbone):
    """Any diffusers folder or Hub id whose pipeline is `WanPipeline`.

    Wan 2.2 14B has two transformers of one build, one for the noisier times and one for the cleaner; adapters are put
    into both. Wan 2.2 5B has one and an autoencoder of 16 pixels a side for one latent.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("WanPipeline",)
    frames_per_latent: ClassVar[int] = 4
    frame_step: ClassVar[int] = 4
    usual_frames: int = 33
    frames_per_second: float = 16.0
    boundary: float = 0.0
    """From this time on towards noise the first transformer is asked, before it the second, if there is one."""
    selectors: ClassVar[dict[str, str]] = {
        "spatial": rf"attn1\.{ATTENTION}|ffn\.net\.(0\.proj|2)$",
        "temporal": rf"attn1\.{ATTENTION}|ffn\.net\.(0\.proj|2)$",
        "temporal.qk": r"attn1\.(to_q|to_k)$",
        "temporal.qkv": r"attn1\.(to_q|to_k|to_v)$",
        "attention": rf"attn[12]\.{ATTENTION}",
        "cross_attention": rf"attn2\.{ATTENTION}",
        "cross_attention.kv": r"attn2\.(to_k|to_v)$",
        "feed_forward": r"ffn\.net\.(0\.proj|2)$",
    }

    @classmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> Wan:
        config: dict[str, Any] = dict(pipeline.scheduler.config)
        schedule = FlowSchedule({"shift": config.get("shift", config.get("flow_shift", 1.0))})
        base = cls(pipeline, fingerprint, device, schedule)
        if base.has_two:
            base.boundary = float(pipeline.config.boundary_ratio) * schedule.length
        if pipeline.config.expand_timesteps:
            base.frames_per_second = 24.0
        return base

    @property
    def has_two(self) -> bool:
        """Whether a second transformer draws the cleaner times."""
        return getattr(self._pipeline, "transformer_2", None) is not None

    def denoisers(self) -> dict[str, nn.Module]:
        second = {"transformer_2": self._pipeline.transformer_2} if self.has_two else {}
        return {self.denoiser_part: self.denoiser, **second}

    @property
    def resolution(self) -> int:
        """The short side of its clips."""
        return 480 if self.pixels_per_latent < 16 else 704

    @property
    def pixels_per_latent(self) -> int:
        return int(self.vae.config.scale_factor_spatial)

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        # Empty places count in its attention to the text, so there must be as many as the base was trained with.
        hidden, _ = self._pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=512, device=self.device
        )
        return Conditioning({"encoder_hidden_states": hidden})

    def answer(self, clips: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        is_noisy = t >= self.boundary
        if is_noisy.all() or not is_noisy.any():
            which: Any = self.denoiser if is_noisy.all() else self._pipeline.transformer_2
            return which(clips, t, **conditioning.tensors, return_dict=False)[0]
        singly = [
            self.answer(clips[row : row + 1], t[row : row + 1], conditioning.rows([row])) for row in range(len(clips))
        ]
        return torch.cat(singly)

    def checkpoint_gradients(self, enabled: bool) -> None:
        """Compute the activations of both transformers twice instead of keeping them."""
        for denoiser in self.denoisers().values():
            one: Any = denoiser
            one.enable_gradient_checkpointing() if enabled else one.disable_gradient_checkpointing()

    def channels(self) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        return self.per_channel(config.latents_mean), self.per_channel(config.latents_std)
