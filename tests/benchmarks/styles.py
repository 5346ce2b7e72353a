"""Whether runs learned a style of the mini world: give STYLE=RUN, as in "cartoon=runs/cartoon".

Prints a Markdown table: shares of pictures that a probe sees in that style, in the context of the prompt, and of the
class of the prompt; first what the base draws of the style's own name.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image

from modalities.core import bases, generate, media
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import fill
from modalities.core.device import choose
from modalities.core.machine import Machine
from modalities.core.studio import Studio
from modalities.mini.check import load_probe
from modalities.mini.probe import HEADS

BASE = Path(__file__).parents[2] / "modalities" / "mini" / "weights"
CONTENT = {"mug": "snow", "house": "beach", "car": "forest", "teapot": "grass", "robot": "desert", "chair": "lake"}
PLACES = {"beach": "on the beach", "grass": "on the grass", "lake": "on the lake"}
TEMPLATE, PICTURES = "a {} of a %s %s", 6


def seen(images: list[Image.Image], wanted: dict[str, list[str]]) -> list[float]:
    """The shares in which the probe sees what is wanted of each head."""
    pixels = torch.stack([media.to_pixels(image) for image in images])
    with torch.no_grad():
        told: Any = load_probe(BASE)(pixels)
    return [
        mean(HEADS[head][int(place)] == name for place, name in zip(told[head].argmax(1), names, strict=True))
        for head, names in wanted.items()
    ]


def row(name: str, style: str, studio: Any, phrase: str) -> str:
    prompts = [
        fill(TEMPLATE % (thing, PLACES.get(place, f"in the {place}")), phrase) for thing, place in CONTENT.items()
    ]
    images = generate.previews(studio, prompts, PICTURES)
    things, places = (
        [one for one in names for _ in range(PICTURES)] for names in (list(CONTENT), list(CONTENT.values()))
    )
    shares = seen(images, {"style": [style] * len(images), "context": places, "class": things})
    return f"| {name} | {style} | " + " | ".join(f"{share:.2f}" for share in shares) + " |"


def main(asked: list[str]) -> None:
    machine = Machine(choose("cpu"), Cache(Path(tempfile.mkdtemp())), offline=True)
    sys.stdout.write("| run | style | in the style | context | class |\n| --- | --- | --- | --- | --- |\n")
    told = set[str]()
    for style, folder in (one.split("=", 1) for one in asked):
        run = Artifact(Path(folder))
        if style not in told:
            plain = run.recipe().model_copy(update={"components": [], "phases": []})
            backbone = bases.load(bases.resolve(plain.backbone), machine.device, offline=True)
            studio = Studio(backbone, run.concept(), plain, training=False, cache=machine.cache)
            sys.stdout.write(row("the base, by its word", style, studio, style) + "\n")
            told.add(style)
        studio = run.studio(machine)
        sys.stdout.write(row(run.folder.name, style, studio, studio.concept.phrase) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
