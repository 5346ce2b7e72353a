"""CogVideoX 2B and 5B (Yang et al., ICLR 2025): v prediction by a transformer in which text and clip attend together.

https://arxiv.org/abs/2408.06072
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from modalities.core.backbone import Conditioning
from modalities.core.errors import PcsError
from modalities.core.schedule import DiffusionSchedule
from modalities.video.joint import JointBackbone

ATTENTION = r"attn1\.(to_q|to_k|to_v|to_out\.0)$"
FEED_FORWARD = r"ff\.net\.(0\.proj|2)$"


class ShiftedSchedule(DiffusionSchedule):
    """The forward process of CogVideoX: less signal at every time, and none at the last."""

    def __init__(self, scheduler_config: dict[str, Any]) -> None:
        from diffusers import CogVideoXDDIMScheduler

        super().__init__({"prediction_type": scheduler_config["prediction_type"]})
        self._scheduler: Any = CogVideoXDDIMScheduler.from_config(scheduler_config)
        self._alphas: Tensor = self._scheduler.alphas_cumprod.float()
        self._scheduler.alphas_cumprod = self._alphas
        self.length = self._scheduler.config.num_train_timesteps


class CogVideoX(JointBackbone):
    """Any diffusers folder or Hub id whose pipeline is `CogVideoXPipeline`, of version 1.0.

    Words and clip share one attention, so `cross_attention` is the same layers as `attention`.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("CogVideoXPipeline",)
    frames_per_latent: ClassVar[int] = 4
    # Its decoder takes an even number of latents for frames that all share one.
    frame_step: ClassVar[int] = 8
    usual_frames: int = 49
    selectors: ClassVar[dict[str, str]] = {
        "spatial": rf"{ATTENTION}|{FEED_FORWARD}",
        "temporal": rf"{ATTENTION}|{FEED_FORWARD}",
        "temporal.qk": r"attn1\.(to_q|to_k)$",
        "temporal.qkv": r"attn1\.(to_q|to_k|to_v)$",
        "attention": ATTENTION,
        "cross_attention": ATTENTION,
        "cross_attention.kv": r"attn1\.(to_k|to_v)$",
        "feed_forward": FEED_FORWARD,
    }

    @classmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> CogVideoX:
        if pipeline.transformer.config.patch_size_t is not None:
            raise PcsError("this is a CogVideoX 1.5 base, which is not served yet; take CogVideoX-2b or CogVideoX-5b.")
        base = cls(pipeline, fingerprint, device, ShiftedSchedule(dict(pipeline.scheduler.config)))
        base.most_frames = int(pipeline.transformer.config.sample_frames)
        return base

    @property
    def resolution(self) -> int:
        """The short side of its clips."""
        config: Any = self.denoiser.config
        return min(config.sample_height, config.sample_width) * self.pixels_per_latent

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        config: Any = self.denoiser.config
        hidden, _ = self._pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            max_sequence_length=config.max_text_seq_length,
            device=self.device,
        )
        return Conditioning({"encoder_hidden_states": hidden})

    def answer(self, clips: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        denoiser: Any = self.denoiser
        places = None
        if denoiser.config.use_rotary_positional_embeddings:
            height, width = (side * self.pixels_per_latent for side in clips.shape[-2:])
            places = self._pipeline._prepare_rotary_positional_embeddings(height, width, clips.shape[2], self.device)
        answer = denoiser(
            clips.transpose(1, 2), timestep=t, image_rotary_emb=places, **conditioning.tensors, return_dict=False
        )[0]
        return answer.transpose(1, 2)

    def channels(self) -> tuple[Tensor, Tensor]:
        scale = float(self.vae.config.scaling_factor)
        return self.per_channel([0.0]), self.per_channel([1 / scale])
