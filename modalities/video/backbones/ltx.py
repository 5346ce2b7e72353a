"""LTX-Video (HaCohen et al., 2024): rectified flow over latents of 32x32 pixels and eight frames.

https://arxiv.org/abs/2501.00103
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from modalities.core.backbone import Conditioning
from modalities.core.schedule import FlowSchedule
from modalities.video.joint import JointBackbone

ATTENTION = r"(to_q|to_k|to_v|to_out\.0)$"
FEED_FORWARD = r"ff\.net\.(0\.proj|2)$"


class Ltx(JointBackbone):
    """Any diffusers folder or Hub id whose pipeline is `LTXPipeline`."""

    pipelines: ClassVar[tuple[str, ...]] = ("LTXPipeline",)
    frames_per_latent: ClassVar[int] = 8
    frame_step: ClassVar[int] = 8
    usual_frames: int = 49
    frames_per_second: float = 25.0
    selectors: ClassVar[dict[str, str]] = {
        "spatial": rf"attn1\.{ATTENTION}|{FEED_FORWARD}",
        "temporal": rf"attn1\.{ATTENTION}|{FEED_FORWARD}",
        "temporal.qk": r"attn1\.(to_q|to_k)$",
        "temporal.qkv": r"attn1\.(to_q|to_k|to_v)$",
        "attention": rf"attn[12]\.{ATTENTION}",
        "cross_attention": rf"attn2\.{ATTENTION}",
        "cross_attention.kv": r"attn2\.(to_k|to_v)$",
        "feed_forward": FEED_FORWARD,
    }

    @classmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> Ltx:
        return cls(pipeline, fingerprint, device, FlowSchedule({"shift": _shift(dict(pipeline.scheduler.config))}))

    @property
    def resolution(self) -> int:
        """The short side of its clips."""
        return 512

    @property
    def pixels_per_latent(self) -> int:
        return int(self.vae.spatial_compression_ratio)

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        hidden, mask, _, _ = self._pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=self.device
        )
        return Conditioning({"encoder_hidden_states": hidden, "encoder_attention_mask": mask})

    def answer(self, clips: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        denoiser: Any = self.denoiser
        frames, height, width = clips.shape[2:]
        answer = denoiser(
            clips.flatten(2).transpose(1, 2),
            timestep=t,
            num_frames=frames,
            height=height,
            width=width,
            # Places in seconds and pixels, which is how the base knows the speed of its clips.
            rope_interpolation_scale=(
                self.frames_per_latent / self.frames_per_second,
                self.pixels_per_latent,
                self.pixels_per_latent,
            ),
            **conditioning.tensors,
            return_dict=False,
        )[0]
        return answer.transpose(1, 2).unflatten(2, (frames, height, width))

    def channels(self) -> tuple[Tensor, Tensor]:
        scale = float(self.vae.config.scaling_factor)
        return self.per_channel(self.vae.latents_mean), self.per_channel(self.vae.latents_std) / scale

    def decoded(self, raw: Tensor) -> Tensor:
        # Later versions finish the denoising in the decoder; at time 0 there is nothing left to denoise.
        clean = raw.new_zeros(len(raw)) if self.vae.config.timestep_conditioning else None
        return self.vae.decode(raw, clean).sample


def _shift(config: dict[str, Any]) -> float:
    """How far times are moved towards noise: as for a clip of 161 frames of 704x512, whatever is made.

    The pipeline moves them further the larger a clip is, between two sizes (Esser et al. 2024, arXiv:2403.03206).
    """
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", 1.0))
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    tokens = min(many, 21 * 16 * 22)
    return math.exp(low + (high - low) * (tokens - few) / (many - few))
