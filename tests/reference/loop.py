"""The arithmetic of the diffusers example scripts, in one plain loop without accelerate.

Its losses equal the recorded ones of the scripts themselves (`diffusers_scripts.json`), and it hands out everything
it drew, so that other trainers can be fed the same photos, noise and timesteps.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

ADAM = {"betas": (0.9, 0.999), "weight_decay": 1e-2, "eps": 1e-8}
TEMPLATES = [
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
]


@dataclass
class Recording:
    """What one run drew, where it began and where it ended."""

    initial: dict[str, Tensor] = field(default_factory=dict)
    final: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    t: list[Tensor] = field(default_factory=list)
    photo: list[int] = field(default_factory=list)
    class_photo: list[int] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    flipped: list[bool] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    stds: list[Tensor] = field(default_factory=list)


def pixels(path: Path, side: int) -> Tensor:
    """Resize (Lanczos), centre crop and normalize to [-1, 1] as the DreamBooth scripts do; (3, side, side)."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    scale = side / min(image.size)
    size = (side, int(side * image.height / image.width)) if image.width <= image.height else None
    size = size or (int(side * image.width / image.height), side)
    assert abs(size[0] / image.width - scale) < 0.1
    image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    array = np.array(image.crop((left, top, left + side, top + side)))
    return (torch.from_numpy(array).permute(2, 0, 1).contiguous().float().div(255) - 0.5) / 0.5


def run(
    kind: str,
    base: Path,
    photos: list[Path],
    *,
    class_photos: list[Path] | None = None,
    steps: int = 4,
    learning_rate: float,
    rank: int = 4,
    side: int = 32,
) -> Recording:
    """Train as the script for `kind` does: "lora", "lora_text", "full" or "textual_inversion"."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    schedule = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae").requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet").requires_grad_(False)
    record = Recording()
    learned = _prepare(kind, unet, encoder, tokenizer, rank)
    if kind != "textual_inversion":
        unet.train()
    record.initial = {name: value.detach().clone() for name, value in learned.items()}
    optimizer = torch.optim.AdamW(list(learned.values()), lr=learning_rate, **ADAM)
    token = len(tokenizer) - 1
    frozen_rows = encoder.get_input_embeddings().weight.detach().clone()

    def fetch(index: int) -> dict[str, Any]:
        path = photos[index % len(photos)]
        if kind == "textual_inversion":
            prompt = random.choice(range(len(TEMPLATES)))
            flipped = bool(torch.rand(1) < 0.5)
            image = Image.open(path).convert("RGB")
            assert image.size == (side, side)
            array = np.array(ImageOps.mirror(image) if flipped else image)
            value = torch.from_numpy((array / 127.5 - 1.0).astype(np.float32)).permute(2, 0, 1)
            text = [TEMPLATES[prompt].format("<new>")]
            return {"pixels": [value], "text": text, "prompt": prompt, "flipped": flipped, "index": index}
        value, text = [pixels(path, side)], ["a photo of sks dog"]
        if class_photos:
            value.append(pixels(class_photos[index % len(class_photos)], side))
            text.append("a photo of dog")
        return {"pixels": value, "text": text, "prompt": 0, "flipped": False, "index": index}

    count = max(len(photos), len(class_photos or []))
    while len(record.losses) < steps:
        loader = torch.utils.data.DataLoader(_Fetched(count, fetch), shuffle=True, collate_fn=lambda items: items[0])
        for item in loader:
            if len(record.losses) == steps:
                break
            posterior = vae.encode(torch.stack(item["pixels"])).latent_dist
            normal_state = torch.get_rng_state()
            latents = posterior.sample() * vae.config.scaling_factor
            torch.set_rng_state(normal_state)
            normal = torch.randn(posterior.mean.shape)
            noise = torch.randn_like(latents)
            t = torch.randint(0, schedule.config.num_train_timesteps, (len(latents),)).long()
            ids = tokenizer(
                item["text"],
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids
            answer = unet(schedule.add_noise(latents, noise, t), t, encoder(ids)[0], return_dict=False)[0]
            loss = functional.mse_loss(answer[:1], noise[:1])
            if class_photos:
                loss = loss + 1.0 * functional.mse_loss(answer[1:], noise[1:])
            loss.backward()
            if kind != "textual_inversion":
                torch.nn.utils.clip_grad_norm_(list(learned.values()), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if kind == "textual_inversion":
                with torch.no_grad():
                    encoder.get_input_embeddings().weight[:token] = frozen_rows[:token]
            record.losses.append(float(loss.detach()))
            record.latents.append(normal)
            record.noise.append(noise)
            record.t.append(t)
            record.photo.append(item["index"] % len(photos))
            record.class_photo.append(item["index"] % len(class_photos) if class_photos else 0)
            record.prompt.append(item["prompt"])
            record.flipped.append(item["flipped"])
            record.means.append(posterior.mean)
            record.stds.append(posterior.std)
    record.final = {name: value.detach().clone() for name, value in learned.items()}
    if kind == "textual_inversion":
        row = slice(token, token + 1)
        for values in (record.initial, record.final):
            values["text_encoder"] = values.pop("table")[row].clone()
    return record


def _prepare(kind: str, unet: Any, encoder: Any, tokenizer: Any, rank: int) -> dict[str, Tensor]:
    from peft import LoraConfig

    if kind == "full":
        unet.requires_grad_(True)
        return {f"unet.{name}": value for name, value in unet.named_parameters()}
    if kind == "textual_inversion":
        start = tokenizer.encode("dog", add_special_tokens=False)[0]
        tokenizer.add_tokens(["<new>"])
        encoder.resize_token_embeddings(len(tokenizer))
        table = encoder.get_input_embeddings().weight
        with torch.no_grad():
            table[-1] = table[start]
        return {"table": table.requires_grad_(True)}
    targets = ["to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_v_proj"]
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))
    learned = {f"unet.{name}": value for name, value in unet.named_parameters() if "lora" in name}
    if kind == "lora_text":
        targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
        encoder.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))
        learned |= {f"text_encoder.{name}": value for name, value in encoder.named_parameters() if "lora" in name}
    return {name.replace(".default.", "."): value for name, value in learned.items()}


class _Fetched(torch.utils.data.Dataset):
    def __init__(self, count: int, fetch: Any) -> None:
        self._count, self._fetch = count, fetch

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._fetch(index)
