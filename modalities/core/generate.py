"""Images from a base with what was learned in place: the same seed gives the same bytes, whatever is asked beside."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core import media
from modalities.core.draws import generator
from modalities.core.recipe import Sample

# Latents (pixels of the denoiser) that one batch of previews may hold: 8 pictures of mini, 4 of SD 1.5, 1 of SDXL.
PREVIEW_LATENTS = 16384

if TYPE_CHECKING:
    from PIL.Image import Image

    from modalities.core.backbone import Backbone
    from modalities.core.studio import Studio


def pictures(
    backbone: Backbone, pipeline: Any, prompts: list[str], *, seed: int, indices: list[int], sample: Sample, side: int
) -> Float[Tensor, "n 3 h w"]:
    """Generate one picture in [0, 1], `side` pixels square, for each prompt, all in one batch.

    The start noise of a picture depends on (seed, its index) alone.
    """
    channels, size = backbone.latent_channels, side // backbone.pixels_per_latent
    noise = [torch.randn(channels, size, size, generator=generator(seed, "sample", index)) for index in indices]
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        prompts,
        negative_prompt=[sample.negative_prompt] * len(prompts) if sample.negative_prompt else None,
        num_inference_steps=sample.steps,
        guidance_scale=sample.guidance,
        height=side,
        width=side,
        latents=backbone.packed(torch.stack(noise).to(backbone.device, backbone.dtype)),
        output_type="pt",
    )
    return made.images.float().cpu()


def of_studio(studio: Studio, prompt: str, *, seed: int, index: int) -> Image:
    """Generate picture number `index` of a seed as the studio's recipe says, with what was learned in place.

    It is made alone: the last bits of a convolution depend on how many pictures share a batch, so this is what
    makes its bytes its own.
    """
    return _batch(studio, [prompt], seed, [index])[0]


def previews(studio: Studio, prompts: list[str], count: int) -> list[Image]:
    """Generate `count` pictures of each prompt, prompt by prompt, in batches: faster, and the same to the eye."""
    wanted = [(prompt, index) for prompt in prompts for index in range(count)]
    return [picture for made in _in_batches(studio, wanted) for picture in made]


def seconds_per_preview(studio: Studio) -> float:
    """Time two sampling steps of one batch, and say what a preview will take."""
    few = studio.recipe.sample.model_copy(update={"steps": 2})
    count = _batch_size(studio)
    started = time.monotonic()
    with studio.sampling() as pipeline:
        pictures(
            studio.backbone,
            pipeline,
            [studio.concept.subjects[0].phrase] * count,
            seed=0,
            indices=list(range(count)),
            sample=few,
            side=studio.resolution,
        )
    return (time.monotonic() - started) / few.steps * studio.recipe.sample.steps / count


def _batch_size(studio: Studio) -> int:
    latents = (studio.resolution // studio.backbone.pixels_per_latent) ** 2
    return max(1, min(8, PREVIEW_LATENTS // latents))


def _in_batches(studio: Studio, wanted: list[tuple[str, int]]) -> Iterator[list[Image]]:
    """Generate pictures, each given by its prompt and index, with the recipe's seed."""
    size = _batch_size(studio)
    for start in range(0, len(wanted), size):
        prompts, indices = zip(*wanted[start : start + size], strict=True)
        yield _batch(studio, list(prompts), studio.recipe.train.seed, list(indices))


def _batch(studio: Studio, prompts: list[str], seed: int, indices: list[int]) -> list[Image]:
    with studio.sampling() as pipeline:
        made = pictures(
            studio.backbone,
            pipeline,
            prompts,
            seed=seed,
            indices=indices,
            sample=studio.recipe.sample,
            side=studio.resolution,
        )
    return [media.to_image(pixels) for pixels in made]


def class_images(studio: Studio, prompts: list[str], count: int) -> Path:
    """Let the frozen base make `count` pictures, of each prompt in turn; return their folder, cached for good."""
    recipe = studio.recipe
    key = (
        studio.backbone.fingerprint,
        *prompts,
        recipe.sample.model_dump_json(),
        recipe.train.seed,
        studio.resolution,
    )
    folder = studio.cache.folder("class-images", (*key, count))
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    studio.progress.start("class pictures", count)
    number = 0
    for made in _in_batches(studio, [(prompts[index % len(prompts)], index) for index in range(count)]):
        for picture in made:
            media.save_png(picture, unfinished / f"{number:04}.png")
            number += 1
        studio.progress.advance(len(made))
    if not folder.is_dir():
        unfinished.rename(folder)
    return folder
