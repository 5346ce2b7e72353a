"""Tiny random models in the real formats: every test runs the true code path in seconds, without downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

WORDS = [
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "at",
    "with",
    "photo",
    "picture",
    "and",
    "sks",
    "dog",
    "cat",
    "mug",
    "car",
    "robot",
    "thing",
    "snow",
    "beach",
    "grass",
    "red",
    "blue",
    "green",
    "new",
    "toy",
    "backpack",
    "person",
    "style",
    "at",
    "night",
    "forest",
    "desert",
    "water",
    "table",
    "wooden",
    "sitting",
    "running",
    "very",
    "nice",
]


def tokenizer(length: int = 32) -> Any:
    """A CLIP tokenizer of bytes and a few words."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    merges: list[tuple[str, str]] = []
    vocabulary = letters + [letter + "</w>" for letter in letters]
    for word in dict.fromkeys(WORDS):
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
            pieces = ["".join(pair), *pieces[2:]]
            if pieces[0] not in vocabulary:
                vocabulary.append(pieces[0])
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: number for number, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=length)


def text_config(tokens: Any, width: int, **changes: Any) -> Any:
    """Settings of a small CLIP text encoder for `tokens`."""
    from transformers import CLIPTextConfig

    settings = {
        "vocab_size": len(tokens),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": tokens.model_max_length,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
        "projection_dim": width,
    }
    return CLIPTextConfig(**(settings | changes))


def stable_diffusion(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0, layers: int = 2) -> Path:
    """Write a tiny Stable Diffusion (1.5 M parameters, 32x32 pixels, 16x16 latents of 4 channels).

    layers: of cross-attention; with 16 it has the blocks of Stable Diffusion 1.x.
    """
    from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(seed)
    tokens = tokenizer()
    blocks: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            **({"block_out_channels": (32, 32, 64, 64)} if layers == 16 else blocks),
            sample_size=16,
            in_channels=4,
            out_channels=4,
            cross_attention_dim=32,
            attention_head_dim=4,
        ),
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config(tokens, 32)),
        tokenizer=tokens,
        scheduler=DDPMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def autoencoder(**changes: Any) -> Any:
    """A small autoencoder: half the side, 4 channels."""
    from diffusers import AutoencoderKL

    settings: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "latent_channels": 4,
    }
    return AutoencoderKL(**(settings | changes))


def encoders(folder: Path) -> tuple[str, str]:
    """Write a tiny image encoder and a tiny CLIP; return their folders."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, ResNetConfig, ResNetModel

    torch.manual_seed(0)
    tokens = tokenizer()
    processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    subject = ResNetModel(ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"))
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = CLIPModel(
        CLIPConfig(
            text_config=text_config(tokens, 32).to_dict(),
            vision_config=vision | {"image_size": 64, "patch_size": 16},
            projection_dim=32,
        )
    )
    for name, parts in {"subject": (subject, processor), "clip": (clip, processor, tokens)}.items():
        for part in parts:
            part.save_pretrained(folder / name)
    return str(folder / "subject"), str(folder / "clip")


def photos(folder: Path, count: int = 3, side: int = 80, seed: int = 0) -> Path:
    """Draw `count` different pictures of one striped disc."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_from = torch.Generator().manual_seed(seed)
    for number in range(count):
        values = torch.rand(6, generator=draw_from).tolist()
        image = Image.new("RGB", (side + 8 * number, side), tuple(int(255 * value) for value in values[:3]))
        draw = ImageDraw.Draw(image)
        left, top = (int(side * 0.3 * value) for value in values[3:5])
        draw.ellipse((left, top, left + side // 2, top + side // 2), fill=(200, 60, 20))
        for stripe in range(3):
            y = top + side // 8 * (stripe + 1)
            draw.line((left + side // 10, y, left + side * 2 // 5, y), fill=(250, 240, 120), width=3)
        image.save(folder / f"{number:02}.png")
    return folder


def t5_tokenizer() -> Any:
    """A T5 tokenizer of a few words and letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁" + word, -2.0) for word in dict.fromkeys(WORDS)] + [(chr(code), -5.0) for code in range(33, 127)]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=2))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    return T5TokenizerFast(
        tokenizer_object=unigram, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", extra_ids=0
    )


def t5_config(tokens: Any) -> Any:
    """Settings of a small T5 for `tokens`."""
    from transformers import T5Config

    return T5Config(
        vocab_size=len(tokens), d_model=64, d_ff=96, d_kv=16, num_layers=2, num_heads=4, decoder_start_token_id=0
    )


def stable_diffusion_3(folder: Path) -> Path:
    """Write a tiny Stable Diffusion 3: two CLIP encoders with projection, T5, a two-block transformer."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    torch.manual_seed(0)
    tokens = tokenizer(77)
    t5_tokens = t5_tokenizer()
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            out_channels=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        text_encoder=CLIPTextModelWithProjection(text_config(tokens, 32)),
        tokenizer=tokens,
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokens, 32)),
        tokenizer_2=tokens,
        text_encoder_3=T5EncoderModel(t5_config(t5_tokens)),
        tokenizer_3=t5_tokens,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def stable_diffusion_xl(folder: Path) -> Path:
    """Write a tiny Stable Diffusion XL, whose second text encoder is configured as old ones are: its end is token 2."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    tokens = tokenizer()
    pipeline = StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            sample_size=16,
            in_channels=4,
            out_channels=4,
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config(tokens, 32)),
        tokenizer=tokens,
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokens, 32, eos_token_id=2)),
        tokenizer_2=tokens,
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            steps_offset=1,
            timestep_spacing="leading",
        ),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def flux(folder: Path, *, guidance: bool = True) -> Path:
    """Write a tiny FLUX: pooled CLIP, T5, one double and one single block; with `guidance` as dev has it."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5EncoderModel

    torch.manual_seed(0)
    tokens, t5_tokens = tokenizer(), t5_tokenizer()
    pipeline = FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        text_encoder=CLIPTextModel(text_config(tokens, 32)),
        tokenizer=tokens,
        text_encoder_2=T5EncoderModel(t5_config(t5_tokens)),
        tokenizer_2=t5_tokens,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
