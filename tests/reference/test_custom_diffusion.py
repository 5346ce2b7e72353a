"""Custom Diffusion's step is that of the diffusers example script, whose attention processor diffusers ships."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from modalities.core import bases, recipe
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.step import Batch
from modalities.core.studio import Studio
from modalities.core.trainer import Trainer
from tests import tiny

RECORDED = json.loads((Path(__file__).parent / "diffusers_scripts.json").read_text())
ADAM = {"betas": (0.9, 0.999), "weight_decay": 1e-2, "eps": 1e-8}
RATE, SIDE = 1e-3, 32
# The script divides a sum over four channels by the area of a mask of one, so that the subject's error counts
# fourfold beside the class's; ours is that loss over 4. Its mask leaves out a border of one latent in any case.
CHANNELS = 4
MASK = torch.nn.functional.pad(torch.ones(1, 1, 14, 14), (1, 1, 1, 1))


@dataclass
class Seen:
    """What the script's loop drew and learned, step by step."""

    batches: list[Batch] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learned: list[dict[str, Tensor]] = field(default_factory=list)


def pixels(path: Path, centre: bool) -> Tensor:
    image = Image.open(path).convert("RGB")
    left = round((image.width - SIDE) / 2)
    array = np.array(image.crop((left, 0, left + SIDE, SIDE)) if centre else image)
    scaled = array / 127.5 - 1.0 if not centre else (array / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    return torch.from_numpy(scaled.astype(np.float32)).permute(2, 0, 1)


def script(base: Path, photo: Path, classes: list[Path], steps: int = 4) -> Seen:
    """The script's loop without accelerate, draws in its order."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
    from transformers import CLIPTextModel, CLIPTokenizer

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    schedule = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    encoder: Any = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").requires_grad_(False)
    vae: Any = AutoencoderKL.from_pretrained(base, subfolder="vae").requires_grad_(False)
    unet: Any = UNet2DConditionModel.from_pretrained(base, subfolder="unet").requires_grad_(False)
    start = tokenizer.encode("dog", add_special_tokens=False)[0]
    tokenizer.add_tokens(["<new>"])
    encoder.resize_token_embeddings(len(tokenizer))
    table = encoder.get_input_embeddings().weight.requires_grad_(True)
    table.data[-1] = table.data[start]
    weights = unet.state_dict()
    processors: dict[str, Any] = {}
    for name in unet.attn_processors:
        layer, crosses = name.removesuffix(".processor"), "attn2" in name
        made = CustomDiffusionAttnProcessor2_0(
            crosses, False, len(weights[f"{layer}.to_q.weight"]), 32 if crosses else None
        )
        if crosses:
            made.load_state_dict({f"to_{x}_custom_diffusion.weight": weights[f"{layer}.to_{x}.weight"] for x in "kv"})
        processors[name] = made
    unet.set_attn_processor(dict(processors))
    learned = {
        f"unet.{name.removesuffix('processor')}to_{x}.weight": getattr(one, f"to_{x}_custom_diffusion").weight
        for name, one in processors.items()
        if "attn2" in name
        for x in "kv"
    }
    optimizer = torch.optim.AdamW([table, *learned.values()], lr=RATE, **ADAM)
    vae.encode(torch.randn(1, 3, SIDE, SIDE)).latent_dist.sample()
    seen = Seen()

    def fetch(index: int) -> dict[str, Any]:
        shown, text = [pixels(photo, False)], ["a photo of <new> dog"]
        if classes:
            shown.append(pixels(classes[index], True))
            text.append("a photo of dog")
        return {"pixels": torch.stack(shown), "text": text}

    class Items(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return max(1, len(classes))

        def __getitem__(self, index: int) -> Any:
            return fetch(index)

    while len(seen.losses) < steps:
        for item in torch.utils.data.DataLoader(Items(), shuffle=True, collate_fn=lambda items: items[0]):
            if len(seen.losses) == steps:
                break
            latents = vae.encode(item["pixels"]).latent_dist.sample() * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            t = torch.randint(0, 1000, (len(latents),)).long()
            ids = tokenizer(
                item["text"], padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids  # fmt: skip
            answer = unet(schedule.add_noise(latents, noise, t), t, encoder(ids)[0]).sample
            errors = torch.nn.functional.mse_loss(answer[:1], noise[:1], reduction="none")
            loss = ((errors * MASK).sum([1, 2, 3]) / MASK.sum([1, 2, 3])).mean()
            if classes:
                loss = loss + torch.nn.functional.mse_loss(answer[1:], noise[1:])
            loss.backward()
            table.grad[:-1] = 0
            torch.nn.utils.clip_grad_norm_([table, *learned.values()], 1.0)
            optimizer.step()
            optimizer.zero_grad()
            count = len(seen.losses)
            is_prior = torch.tensor([False, True])[: len(latents)]
            positions = tuple([count] * len(latents))
            weight = torch.where(is_prior[:, None, None, None], 1.0, MASK / MASK.mean())
            batch = Batch(latents, noise, t, tuple(item["text"]), positions, is_prior)
            seen.batches.append(batch.weighed(weight))
            seen.losses.append(float(loss.detach()))
            seen.learned.append({name: value.detach().clone() for name, value in learned.items()})
            seen.learned[-1]["token"] = table.detach()[-1:].clone()
    return seen


class Replayed(Trainer):
    """Takes the batches that the script had."""

    seen: Seen

    def batch(self) -> Batch:
        return self.seen.batches[self.step]

    def loss(self, batch: Batch) -> Tensor:
        return CHANNELS * super().loss(batch)


@pytest.mark.parametrize("name", ["custom_diffusion", "custom_diffusion_prior"])
def test_steps_are_those_of_the_script(name: str, base: Path, tmp_path: Path) -> None:
    told = RECORDED["runs"][name]
    photo = tiny.photos(tmp_path / "photos", 1, side=SIDE) / "00.png"
    folder = tiny.photos(tmp_path / "class", 3, side=SIDE, seed=5)
    seen = script(base, photo, [folder / one for one in told.get("class_files", [])])
    assert seen.losses == pytest.approx(told["losses"], rel=1e-4), "the loop is not the script"
    components: list[Any] = [
        {"textual_inversion": {"init": "dog"}},
        {"full_finetune": {"layers": "cross_attention.kv"}},
        "held_start_token",
    ]
    if "class_files" in told:
        images = {"source": "images", "images": str(folder), "weight": 1 / CHANNELS}
        components.append({"prior_preservation": images})
    train = {"learning_rate": RATE}
    text = {"title": name, "backbone": str(base), "components": components, "train": train}
    method = recipe.parse(json.dumps(text | {"data": {"subject": "<new> {noun}"}}), "parity")
    concept = Concept.from_folder(photo.parent, noun="dog", subject=method.data.subject)
    backbone = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    trainer = Replayed(Studio(backbone, concept, method, training=True, cache=Cache(tmp_path / "cache")))
    trainer.seen = seen
    for loss, learned in zip(seen.losses, seen.learned, strict=True):
        assert trainer.advance() == pytest.approx(loss, rel=1e-5)
        ours = trainer.studio.learned_by("full_finetune")
        ours = ours | {"token": trainer.studio.learned_by("textual_inversion")["text_encoder"]}
        assert set(ours) == set(learned)
        for key, value in learned.items():
            assert float((ours[key] - value).norm() / value.norm()) < 1e-5, key
