"""A tiny image base and its video sibling in the real formats, and clips of a square that moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import torch

from tests import tiny

UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
}
SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


def siblings(folder: Path) -> tuple[Path, Path]:
    """Write an image base and a video base that shares all of its weights; return both folders."""
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        StableDiffusionPipeline,
        TextToVideoSDPipeline,
        UNet2DConditionModel,
        UNet3DConditionModel,
    )
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    tokens = tiny.tokenizer()
    parts: dict[str, Any] = {
        "vae": tiny.autoencoder(),
        "text_encoder": CLIPTextModel(tiny.text_config(tokens, 32)),
        "tokenizer": tokens,
    }
    flat = UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(4, 8),
        use_linear_projection=True,
        **UNET,
    )
    moving = UNet3DConditionModel(
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        attention_head_dim=8,
        **UNET,
    )
    moving.load_state_dict(flat.state_dict(), strict=False)
    image = StableDiffusionPipeline(
        unet=flat,
        scheduler=DDPMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )
    video = TextToVideoSDPipeline(unet=moving, scheduler=DDIMScheduler(**SCHEDULE), **parts)
    image.save_pretrained(folder / "image", safe_serialization=True)
    video.save_pretrained(folder / "video", safe_serialization=True)
    return folder / "image", folder / "video"


def frames(
    count: int = 8, size: tuple[int, int] = (64, 64), step: tuple[float, float] = (3, 0), seed: int = 0
) -> np.ndarray:
    """A textured square that goes `step` pixels (x, y) a frame over a textured ground, (count, h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    height, width = size
    ground = np.kron(rng.integers(60, 120, (height // 4 + 1, width // 4 + 1, 3)), np.ones((4, 4, 1)))[:height, :width]
    square = np.kron(rng.integers(120, 255, (5, 5, 3)), np.ones((4, 4, 1)))
    made = []
    for number in range(count):
        picture = ground.copy()
        x = int(np.clip(8 + step[0] * number if step[0] >= 0 else width - 30 + step[0] * number, 0, width - 20))
        y = int(np.clip(height // 3 + step[1] * number, 0, height - 20))
        picture[y : y + 20, x : x + 20] = square
        made.append(picture)
    return np.stack(made).astype(np.uint8)


def write(path: Path, pictures: np.ndarray, rate: float = 8, **options: Any) -> Path:
    """Write frames as a video file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with imageio.get_writer(path, fps=rate, macro_block_size=1, **options) as writer:
        for picture in pictures:
            writer.append_data(picture)
    return path


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """Frames as the core has them, (count, 3, h, w) in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def animatediff(folder: Path, image: Path) -> Path:
    """Write a tiny AnimateDiff on the image base in `image`."""
    from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter, StableDiffusionPipeline

    torch.manual_seed(1)
    base = StableDiffusionPipeline.from_pretrained(image)
    adapter = MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=8,
        motion_max_seq_length=16,
    )
    parts = {name: getattr(base, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    pipeline = AnimateDiffPipeline(motion_adapter=adapter, scheduler=DDIMScheduler(**SCHEDULE), **parts)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _t5() -> tuple[Any, Any]:
    """A T5 encoder and its tokenizer."""
    from transformers import T5Config, T5EncoderModel

    tokens = tiny.t5_tokenizer()
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 1, "num_heads": 4}
    return T5EncoderModel(T5Config(vocab_size=len(tokens), decoder_start_token_id=0, **sizes)), tokens


def wan(folder: Path, *, experts: int = 1) -> Path:
    """Write a tiny Wan: transformers of two blocks, an autoencoder of a few thousand weights, T5.

    With two experts it is a Wan 2.2, of which the second draws the cleaner half.
    """
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    tokens = tiny.t5_tokenizer()
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 1, "num_heads": 4}
    transformers = [
        WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=256,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        )
        for _ in range(experts)
    ]
    pipeline = WanPipeline(
        transformer=transformers[0],
        transformer_2=transformers[1] if experts == 2 else None,
        boundary_ratio=0.5 if experts == 2 else None,
        vae=AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=UMT5EncoderModel(UMT5Config(vocab_size=len(tokens), **sizes)),
        tokenizer=tokens,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def cogvideox(folder: Path) -> Path:
    """Write a tiny CogVideoX: one block, four latents' worth of frames, T5."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    torch.manual_seed(0)
    encoder, tokens = _t5()
    pipeline = CogVideoXPipeline(
        transformer=CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=32,
            num_layers=2,
            sample_width=4,
            sample_height=4,
            sample_frames=9,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=16,
            use_rotary_positional_embeddings=True,
        ),
        vae=AutoencoderKLCogVideoX(
            in_channels=3,
            out_channels=3,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ),
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        ),
        text_encoder=encoder,
        tokenizer=tokens,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def ltx(folder: Path) -> Path:
    """Write a tiny LTX: two blocks, latents of 32x32 pixels and eight frames, T5."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    torch.manual_seed(0)
    encoder, tokens = _t5()
    pipeline = LTXPipeline(
        transformer=LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=32,
        ),
        vae=AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
            shift_terminal=0.1,
        ),
        text_encoder=encoder,
        tokenizer=tokens,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
