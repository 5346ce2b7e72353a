"""Stable Diffusion 1.x and 2.x (Rombach et al., CVPR 2022), epsilon or v prediction.

https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from modalities.core.backbone import Backbone, Conditioning
from modalities.core.components.lora import low_rank_product
from modalities.core.schedule import DiffusionSchedule

# Inside a residual block, the original name of each layer that can be adapted.
LDM_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


class StableDiffusion(Backbone):
    """Any diffusers folder or Hub id whose pipeline is `StableDiffusionPipeline`."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    denoiser_part: ClassVar[str] = "unet"
    load_options: ClassVar[dict[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}
    selectors: ClassVar[dict[str, str]] = {
        "attention": r"attn[12]\.(to_q|to_k|to_v|to_out\.0)$",
        "self_attention": r"attn1\.(to_q|to_k|to_v|to_out\.0)$",
        "cross_attention": r"attn2\.(to_q|to_k|to_v|to_out\.0)$",
        "cross_attention.kv": r"attn2\.(to_k|to_v)$",
        "feed_forward": r"ff\.net\.(0\.proj|2)$",
        "projections": r"proj_(in|out)$",
        "convolutions": r"resnets\.\d+\.(conv1|conv2|conv_shortcut)$",
        "spatial": r"(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2)|proj_(in|out))$",
    }
    kohya_prefixes: ClassVar[dict[str, str]] = {"unet": "lora_unet", "text_encoder": "lora_te"}
    """What kohya's tools put before the modules of each network."""

    @classmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> StableDiffusion:
        from diffusers import DPMSolverMultistepScheduler

        schedule = DiffusionSchedule(dict(pipeline.scheduler.config))
        # DPM-Solver++ (Lu et al., 2022) reaches DDIM's quality at 50 steps in about 20.
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
        return cls(pipeline, fingerprint, device, schedule)

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        return self.last_hidden_states(prompts)

    def predict(
        self, noisy: Float[Tensor, "b ..."], t: Num[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b ..."]:
        denoiser: Any = self.denoiser
        with self.autocast():
            return denoiser(noisy.to(self.dtype), t, **conditioning.tensors, return_dict=False)[0]

    # -- other tools' names ----------------------------------------------------------------------------------

    def portable_lora(self, weights: dict[str, Tensor], scale: float) -> dict[str, dict[str, Tensor]]:
        kohya: dict[str, Tensor] = {}
        comfyui: dict[str, Tensor] = {}
        canonical: dict[str, Tensor] = {}
        for name, value in weights.items():
            module, side = re.fullmatch(r"(.*)\.lora_([AB])\.weight", name).groups()  # pyright: ignore
            module = self._canonical(module)
            canonical[f"{module}.lora_{side}.weight"] = value
            layer = "lora_down" if side == "A" else "lora_up"
            names = self.portable_names(module)
            for layout, key in ((kohya, names["kohya"]), (comfyui, names["comfyui"])):
                layout[f"{key}.{layer}.weight"] = value
                if side == "A":
                    layout[f"{key}.alpha"] = torch.tensor(scale * value.shape[0])
        return super().portable_lora(canonical, scale) | {"kohya": kohya, "comfyui": comfyui}

    def portable_names(self, module: str) -> dict[str, str]:
        module = self._canonical(module)
        return {"kohya": self._kohya(module), "comfyui": self._comfyui(module)}

    def _canonical(self, module: str) -> str:
        """Give text-encoder modules the `text_model.` that transformers 5 leaves out and all other tools expect."""
        return re.sub(r"^(text_encoder(?:_2)?)\.(?!text_model\.)", r"\1.text_model.", module)

    def _kohya(self, module: str) -> str:
        part, _, inner = module.partition(".")
        return f"{self.kohya_prefixes[part]}_{inner.replace('.', '_')}"

    def _comfyui(self, module: str) -> str:
        part, _, inner = module.partition(".")
        if part == "unet":
            return f"diffusion_model.{self.ldm_name(inner)}"
        return f"text_encoders.{self.comfyui_encoders[part]}.transformer.{inner}"

    @property
    def comfyui_encoders(self) -> dict[str, str]:
        """What ComfyUI calls the text encoders."""
        # SD 2.x has the wider OpenCLIP-H.
        wide = self.text_encoders["text_encoder"].config.hidden_size == 1024
        return {"text_encoder": "clip_h" if wide else "clip_l"}

    def ldm_name(self, module: str) -> str:
        """Return the name that a UNet module has in the original code: "down_blocks.1.attentions.0.proj_in" ->
        "input_blocks.4.1.proj_in"."""
        config: Any = self.denoiser.config
        layers = int(config.layers_per_block)
        fixed = {
            "conv_in": "input_blocks.0.0",
            "conv_out": "out.2",
            "time_embedding.linear_1": "time_embed.0",
            "time_embedding.linear_2": "time_embed.2",
            "add_embedding.linear_1": "label_emb.0.0",
            "add_embedding.linear_2": "label_emb.0.2",
        }
        if module in fixed:
            return fixed[module]
        block, kind, index, rest = _split(module)
        if kind == "resnets":
            rest = LDM_RESNET[rest]
        if block == "mid":
            place = "middle_block.1" if kind == "attentions" else f"middle_block.{2 * index}"
            return f"{place}.{rest}"
        number = int(block[2:])
        if block.startswith("dn"):
            if kind == "downsamplers":
                return f"input_blocks.{number * (layers + 1) + layers + 1}.0.op"
            return f"input_blocks.{number * (layers + 1) + index + 1}.{int(kind == 'attentions')}.{rest}"
        if kind == "upsamplers":
            has_attention = "CrossAttn" in config.up_block_types[number]
            return f"output_blocks.{number * (layers + 1) + layers}.{1 + int(has_attention)}.conv"
        return f"output_blocks.{number * (layers + 1) + index}.{int(kind == 'attentions')}.{rest}"

    def comfyui_deltas(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

        deltas = {
            key.removesuffix(".lora_down.weight"): (
                low_rank_product(tensors[key.replace("lora_down", "lora_up")], down)
                * (tensors[key.replace("lora_down.weight", "alpha")] / down.shape[0])
            )
            for key, down in tensors.items()
            if key.endswith(".lora_down.weight")
        }
        original = {f"model.{key}.weight": delta for key, delta in deltas.items() if key.startswith("diffusion_model.")}
        # diffusers counts the blocks it finds, so each must be there.
        names = [name for name, _ in self.denoiser.named_modules() if re.search(r"(^|\.)(conv_in|conv1|conv)$", name)]
        for block in {".".join(self.ldm_name(name).split(".")[:2]) for name in names}:
            original[f"model.diffusion_model.{block}.9.unused"] = torch.empty(0)
        # It also takes these of SDXL for granted.
        for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
            original.setdefault(f"model.diffusion_model.label_emb.0.{name}", torch.empty(0))
        unet: dict[str, Tensor] = convert_ldm_unet_checkpoint(original, dict(self.denoiser.config))  # pyright: ignore
        read = {f"unet.{key.removesuffix('.weight')}": delta for key, delta in unet.items() if delta.numel()}
        for part, clip in self.comfyui_encoders.items():
            flat = not hasattr(self.text_encoders[part], "text_model")
            for key, delta in deltas.items():
                if key.startswith(f"text_encoders.{clip}."):
                    inner = key.split(".transformer.", 1)[1]
                    read[f"{part}." + (inner.removeprefix("text_model.") if flat else inner)] = delta
        return read


def _split(module: str) -> tuple[str, str, int, str]:
    """Take "down_blocks.1.resnets.0.conv1" apart into ("dn1", "resnets", 0, "conv1")."""
    parts = module.split(".")
    if parts[0] == "mid_block":
        return "mid", parts[1], int(parts[2]), ".".join(parts[3:])
    return (
        ("dn" if parts[0] == "down_blocks" else "up") + parts[1],
        parts[2],
        int(parts[3]),
        ".".join(parts[4:]),
    )
