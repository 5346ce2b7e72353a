"""FLUX.1 (Black Forest Labs, 2024): rectified flow in joint attention over text and 2x2 patches of latents.

https://github.com/black-forest-labs/flux
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from modalities.core.backbone import Backbone, Conditioning
from modalities.core.schedule import FlowSchedule
from modalities.image.backbones.sd3 import ATTENTION

FEED_FORWARD = r"(ff(_context)?\.net\.(0\.proj|2)|single_transformer_blocks\.\d+\.proj_(mlp|out))$"
# The guidance that FLUX.1 dev is told while it learns: none.
LEARNING_GUIDANCE = 1.0


class Flux(Backbone):
    """Any diffusers folder or Hub id whose pipeline is `FluxPipeline`: FLUX.1 dev, schnell and what came of them.

    Guidance is a number that dev is told, and schnell has none: pictures are made in one pass, without a negative
    prompt.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    denoiser_part: ClassVar[str] = "transformer"
    takes_negative_prompts: ClassVar[bool] = False
    selectors: ClassVar[dict[str, str]] = {
        "attention": ATTENTION,
        "feed_forward": FEED_FORWARD,
        "spatial": f"{ATTENTION}|{FEED_FORWARD}",
    }

    @classmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> Flux:
        return cls(pipeline, fingerprint, device, FlowSchedule(dict(pipeline.scheduler.config)))

    @property
    def resolution(self) -> int:
        return int(self._pipeline.default_sample_size) * self.pixels_per_latent

    @property
    def side_step(self) -> int:
        return 2 * self.pixels_per_latent

    @property
    def latent_channels(self) -> int:
        denoiser: Any = self.denoiser
        return int(denoiser.config.in_channels) // 4

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        hidden, pooled, _ = self._pipeline.encode_prompt(list(prompts), device=self.device)
        return Conditioning({"encoder_hidden_states": hidden, "pooled_projections": pooled})

    def time_told(self, args: tuple[Any, ...], given: dict[str, Any]) -> float:
        return super().time_told(args, given) * self.schedule.length

    def predict(
        self, noisy: Float[Tensor, "b c h w"], t: Num[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        denoiser: Any = self.denoiser
        height, width = (size // 2 for size in noisy.shape[-2:])
        places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(noisy)
        guidance = torch.full((len(noisy),), LEARNING_GUIDANCE, device=noisy.device)
        with self.autocast():
            answer = denoiser(
                hidden_states=self.packed(noisy.to(self.dtype)),
                timestep=t / self.schedule.length,
                guidance=guidance if denoiser.config.guidance_embeds else None,
                txt_ids=noisy.new_zeros(conditioning.tensors["encoder_hidden_states"].shape[1], 3),
                img_ids=torch.cat([torch.zeros_like(places[:, :1]), places], 1),
                **conditioning.tensors,
                return_dict=False,
            )[0]
        # Undo `packed`.
        patches = answer.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def packed(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n k"]:
        """Patches of 2x2 latents, row by row: n = h/2 w/2 of k = 4 c numbers."""
        patches = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
