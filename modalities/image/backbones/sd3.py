"""Stable Diffusion 3 and 3.5 (Esser et al., ICML 2024): rectified flow, three text encoders, pooled embeddings.

https://arxiv.org/abs/2403.03206
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from modalities.core.backbone import Backbone, Conditioning
from modalities.core.schedule import FlowSchedule

ATTENTION = r"attn2?\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)$"
FEED_FORWARD = r"ff(_context)?\.net\.(0\.proj|2)$"


class StableDiffusion3(Backbone):
    """Any diffusers folder or Hub id whose pipeline is `StableDiffusion3Pipeline`; T5 may be left out of it."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusion3Pipeline",)
    denoiser_part: ClassVar[str] = "transformer"
    selectors: ClassVar[dict[str, str]] = {
        "attention": ATTENTION,
        "feed_forward": FEED_FORWARD,
        "spatial": f"{ATTENTION}|{FEED_FORWARD}",
    }

    @classmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> StableDiffusion3:
        return cls(pipeline, fingerprint, device, FlowSchedule(dict(pipeline.scheduler.config)))

    @property
    def side_step(self) -> int:
        denoiser: Any = self.denoiser
        return self.pixels_per_latent * int(denoiser.config.patch_size)

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        hidden, _, pooled, _ = self._pipeline.encode_prompt(
            list(prompts), None, None, device=self.device, do_classifier_free_guidance=False
        )
        return Conditioning({"encoder_hidden_states": hidden, "pooled_projections": pooled})

    def predict(
        self, noisy: Float[Tensor, "b ..."], t: Num[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b ..."]:
        denoiser: Any = self.denoiser
        with self.autocast():
            return denoiser(hidden_states=noisy.to(self.dtype), timestep=t, **conditioning.tensors, return_dict=False)[
                0
            ]
