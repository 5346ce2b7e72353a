"""How well the base finds its classes by attention: the overlap with the true masks of rendered photos.

`python -m tests.benchmarks.masks` prints mean and least intersection over union, and how many lie below one half.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean

import torch
from PIL import Image

from modalities.core import bases, recipe
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.studio import Studio
from modalities.core.subject_mask import masks
from modalities.mini.world import Camera, Scene, Subject, render

NOUNS = ("mug", "teapot", "car", "robot", "chair", "house", "duck", "dog", "cat", "backpack", "sneaker", "clock")
CONTEXTS = ("table", "street", "forest", "beach")
SIDE = 128


def overlaps(noun: str, seed: int, folder: Path) -> list[float]:
    """Of one subject in every context."""
    truth: list[torch.Tensor] = []
    for number, context in enumerate(CONTEXTS):
        picture = render(Scene(Subject.random(seed, noun, held_out=True), context, Camera(-60 + 50 * number, 15)), SIDE)
        Image.fromarray(picture.image).save(folder / f"{number}.png")
        truth.append(torch.from_numpy(picture.mask > 127).float())
    plain = recipe.load("image/dreambooth_lora", {"data": {"flip": False}})
    plain = plain.model_copy(update={"components": [], "phases": []})
    backbone = bases.load(bases.resolve("mini"), choose("cpu"), offline=True)
    concept = Concept.from_folder(folder, noun=noun, subject="{noun}")
    studio = Studio(backbone, concept, plain, training=True, cache=Cache(folder / "cache"))
    found = torch.nn.functional.interpolate(masks(studio, "attention"), size=SIDE)[:, 0]
    return [float((one * own).sum() / (one + own).clamp(max=1).sum()) for one, own in zip(found, truth, strict=True)]


def main() -> None:
    every: list[float] = []
    for seed, noun in enumerate(NOUNS, start=100):
        with tempfile.TemporaryDirectory() as folder:
            every += overlaps(noun, seed, Path(folder))
    below = mean(one < 0.5 for one in every)
    sys.stdout.write(f"{len(every)} photos: mean {mean(every):.3f}, least {min(every):.3f}, below 0.5: {below:.1%}\n")


if __name__ == "__main__":
    main()
