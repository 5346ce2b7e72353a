"""Write a built base as a folder that StableDiffusionPipeline, AutoModel and people can read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import StableDiffusionPipeline, TextToVideoSDPipeline
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from modalities.core.files import replacing, write_json, write_text
from modalities.core.media import save_png
from modalities.mini import denoiser
from modalities.mini.check import check, check_encoders, check_video, clip_sheet, sample_sheet
from modalities.mini.model_card import model_card

if TYPE_CHECKING:
    from modalities.mini.build import Workshop


def write_base(workshop: Workshop, out: Path) -> dict[str, Any]:
    """Build whatever is missing, write the whole folder, measure it, and return what `build.json` says."""
    # Writing leaves the networks in half precision, in which nothing can learn from them.
    networks = workshop.video
    write_pipeline(workshop, networks["text_encoder"], out)
    write_probe(workshop.probe, out / "probe")
    write_encoders(workshop, out)
    write_video(workshop, networks, out / "video")
    write_probe(workshop.motion_probe, out / "motion_probe")
    recipe = workshop.recipe
    steps = recipe.denoiser.steps + recipe.anneal.steps
    facts = {
        "edition": recipe.edition,
        "seed": recipe.seed,
        "recipe_sha256": hashlib.sha256(recipe.model_dump_json().encode()).hexdigest(),
        "denoiser_steps": steps,
        "denoiser_samples": steps * recipe.denoiser.batch,
        "megabytes": round(sum(path.stat().st_size for path in out.rglob("*.safetensors")) / 1e6, 1),
        "measured": {**check(out, recipe.check), **check_encoders(out), **check_video(out, recipe.check)},
        "recipe": json.loads(recipe.model_dump_json()),
    }
    write_json(out / "build.json", facts)
    write_text(out / "README.md", model_card(facts))
    drawing = StableDiffusionPipeline.from_pretrained(out)
    save_png(sample_sheet(drawing, recipe.size, recipe.check), out / "samples.png")
    save_png(clip_sheet(out / "video", recipe.check), out / "clips.png")
    return facts


def write_pipeline(workshop: Workshop, text_encoder: nn.Module, out: Path) -> None:
    """Write autoencoder, tokenizer, text encoder, UNet and scheduler in half precision."""
    pipeline = image_pipeline(workshop, nn.ModuleDict({**workshop.denoiser, "text_encoder": text_encoder}))
    pipeline.register_modules(vae=workshop.finished_autoencoder, tokenizer=workshop.worded_tokenizer)
    pipeline.to(torch.float16).save_pretrained(out)
    _load_as_float32(out / "text_encoder")


def image_pipeline(workshop: Workshop, networks: nn.ModuleDict) -> StableDiffusionPipeline:
    """The image base as it stands, with the autoencoder and the tokenizer of the first stage."""
    pipeline = StableDiffusionPipeline(
        vae=workshop.autoencoder,
        text_encoder=networks["text_encoder"],
        tokenizer=workshop.tokenizer,
        unet=networks["unet"],
        scheduler=denoiser.new_scheduler(workshop.recipe.denoiser.prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_video(workshop: Workshop, networks: nn.ModuleDict, out: Path) -> None:
    """Write the video base in half precision: the video UNet, and all else as in the image base."""
    pipeline = TextToVideoSDPipeline(
        vae=workshop.finished_autoencoder,
        text_encoder=networks["text_encoder"],
        tokenizer=workshop.worded_tokenizer,
        unet=networks["unet"],
        scheduler=denoiser.new_scheduler(workshop.recipe.denoiser.prediction),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(torch.float16).save_pretrained(out)
    _load_as_float32(out / "text_encoder")


def write_probe(probe: nn.Module, folder: Path) -> None:
    """Write a classifier in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "model.safetensors") as temporary:
        save_file({name: tensor.half().contiguous() for name, tensor in probe.state_dict().items()}, temporary)


def write_encoders(workshop: Workshop, out: Path) -> None:
    """Write both metric encoders in half precision, each with what prepares its input."""
    size = workshop.recipe.size
    _write_encoder(workshop.subject_encoder, out / "subject_encoder", size)
    _write_encoder(workshop.clip, out / "clip", size)
    workshop.tokenizer.save_pretrained(out / "clip")


def _write_encoder(model: PreTrainedModel, folder: Path, size: int) -> None:
    model.half().save_pretrained(folder)
    _load_as_float32(folder)
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    write_json(folder / "preprocessor_config.json", preprocessor)


def _load_as_float32(folder: Path) -> None:
    """Let transformers load these half precision weights in float32, as diffusers does with its own."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "dtype": "float32"})
