"""Stable Diffusion XL (Podell et al., ICLR 2024): two text encoders, and sizes beside the prompt.

https://arxiv.org/abs/2307.01952
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from modalities.core.backbone import Conditioning
from modalities.image.backbones.sd import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """Any diffusers folder or Hub id whose pipeline is `StableDiffusionXLPipeline`.

    Photos are told to the base (section 2.2) as what they are after they were cut: whole pictures of the side at which
    they are learned. So pictures are made as photos were learned.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)
    load_options: ClassVar[dict[str, Any]] = {"add_watermarker": False}
    kohya_prefixes: ClassVar[dict[str, str]] = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        hidden, _, pooled, _ = self._pipeline.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False
        )
        if self._pipeline.config.force_zeros_for_empty_prompt:
            said = torch.tensor([bool(prompt) for prompt in prompts], device=self.device)
            hidden, pooled = hidden * said[:, None, None], pooled * said[:, None]
        return Conditioning({"encoder_hidden_states": hidden, "text_embeds": pooled})

    def predict(
        self, noisy: Float[Tensor, "b c h w"], t: Num[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        denoiser: Any = self.denoiser
        height, width = (size * self.pixels_per_latent for size in noisy.shape[-2:])
        # The size of the original, where it was cut, and the size that is wanted.
        sizes = noisy.new_tensor([height, width, 0, 0, height, width]).expand(len(noisy), -1)
        beside = {"text_embeds": conditioning.tensors["text_embeds"], "time_ids": sizes}
        with self.autocast():
            return denoiser(
                noisy.to(self.dtype),
                t,
                encoder_hidden_states=conditioning.tensors["encoder_hidden_states"],
                added_cond_kwargs=beside,
                return_dict=False,
            )[0]

    # -- other tools' names ----------------------------------------------------------------------------------

    @property
    def comfyui_encoders(self) -> dict[str, str]:
        return {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}

    def _kohya(self, module: str) -> str:
        """kohya's tools train it under the original names of its blocks."""
        part, _, inner = module.partition(".")
        return super()._kohya(f"{part}.{self.ldm_name(inner)}" if part == "unet" else module)
