"""Wan 2.1 (Wan team, 2025): rectified flow over clips in one attention of space and time, no temporal layers.

https://arxiv.org/abs/2503.20314
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from modalities.core.backbone import Conditioning, Posterior
from modalities.core.errors import PcsError
from modalities.core.schedule import FlowSchedule
from modalities.video.backbone import VideoBackbone

ATTENTION = r"(to_q|to_k|to_v|to_out\.0)$"


class Wan(VideoBackbone):
    """Any diffusers folder or Hub id whose pipeline is `WanPipeline` with one transformer (Wan 2.1).

    Space and time share one attention, so `spatial` and `temporal` name the same layers; what keeps appearance from
    motion are passes over frames and over clips.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("WanPipeline",)
    denoiser_part: ClassVar[str] = "transformer"
    frame_step: ClassVar[int] = 4
    usual_frames: ClassVar[int] = 33
    frames_per_second: ClassVar[float] = 16.0
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
        if getattr(pipeline, "transformer_2", None) is not None:
            raise PcsError(
                "this is a Wan 2.2 base with two transformers, which is not served yet; take a Wan 2.1 base."
            )
        config: dict[str, Any] = dict(pipeline.scheduler.config)
        shift = config.get("shift", config.get("flow_shift", 1.0))
        return cls(pipeline, fingerprint, device, FlowSchedule({"shift": shift}))

    @property
    def resolution(self) -> int:
        """The short side of its clips."""
        return 480

    @property
    def pixels_per_latent(self) -> int:
        return 2 ** len(self.vae.config.temperal_downsample)

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        hidden, _ = self._pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False, device=self.device)
        return Conditioning({"encoder_hidden_states": hidden})

    def predict(
        self, noisy: Float[Tensor, "b ..."], t: Num[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b ..."]:
        """Ask the denoiser of clips `(B, C, F', h, w)`, or of pictures `(B, C, h, w)` as clips of one frame."""
        denoiser: Any = self.denoiser
        clips = noisy[:, :, None] if noisy.ndim == 4 else noisy
        with self.autocast():
            answer = denoiser(clips.to(self.dtype), t, **conditioning.tensors, return_dict=False)[0]
        return answer[:, :, 0] if noisy.ndim == 4 else answer

    def encode(self, pixels: Float[Tensor, "b 3 height width"]) -> Posterior:
        """Encode pictures as clips of one frame."""
        clips = self.encode_clips(pixels[:, None])
        return Posterior(clips.mean[:, :, 0], clips.std[:, :, 0], clips.shift, clips.scale)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        return self.decode_clips(latents[:, :, None])[:, 0]

    def encode_clips(self, pixels: Float[Tensor, "b f 3 height width"]) -> Posterior:
        """Encode clips in [0, 1]; four frames after the first share one latent. Channels are brought to unit scale."""
        clips = (pixels * 2 - 1).transpose(1, 2).to(self.device, self.vae.dtype)
        found = self.vae.encode(clips).latent_dist
        middle, width = self._channels()
        return Posterior((found.mean.float() - middle) / width, found.std.float() / width, 0.0, 1.0)

    def decode_clips(self, latents: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b frames 3 height width"]:
        middle, width = self._channels()
        raw = (latents * width + middle).to(self.vae.dtype)
        return (self.vae.decode(raw).sample.float().transpose(1, 2) / 2 + 0.5).clamp(0, 1)

    def _channels(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each latent channel."""
        config = self.vae.config
        middle, width = (
            torch.tensor(values, device=self.device) for values in (config.latents_mean, config.latents_std)
        )
        return middle.view(1, -1, 1, 1, 1), width.view(1, -1, 1, 1, 1)
