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
