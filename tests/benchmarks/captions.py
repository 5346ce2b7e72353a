"""How often the base names the place and the side of rendered photos as they are (`captions`, `source: base`).

`python -m tests.benchmarks.captions` prints both shares. A side that has no name is to stay unsaid.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from modalities.core import bases, recipe
from modalities.core.cache import Cache
from modalities.core.components.captions import VIEWS, Captions
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.media import save_png
from modalities.core.studio import Studio
from modalities.mini.captions import CONTEXT_PHRASES
from modalities.mini.truth import portraits
from modalities.mini.world import Scene, Subject, render

NOUNS = ("lamp", "sneaker", "backpack", "dog", "duck", "cat")
PHOTOS, SIDE = 5, 128
# What the component may say of places that captions of the mini world put otherwise.
ALIKE = {"red studio": "on a red background", "blue studio": "on a blue background", "lake": "on the water"}


def read_right(noun: str, seed: int, folder: Path) -> list[tuple[bool, bool]]:
    """Of each photo of one subject, whether its place and its side are right."""
    scenes: list[Scene] = portraits(Subject.random(seed, noun, held_out=True), seed, PHOTOS)
    for number, scene in enumerate(scenes):
        save_png(Image.fromarray(render(scene, SIDE).image), folder / f"{number}.png")
    method = recipe.load("image/dreambooth_lora", {"data": {"subject": "{noun}"}})
    method = method.model_copy(update={"components": [Captions(source="base")], "phases": []})
    backbone = bases.load(bases.resolve("mini"), choose("cpu"), offline=True)
    concept = Concept.from_folder(folder, noun=noun, subject="{noun}")
    studio = Studio(backbone, concept, method, training=True, cache=Cache(folder / "cache"))
    return [_is_right(studio.components[0].said(number, ""), scene) for number, scene in enumerate(scenes)]


def _is_right(said: str, scene: Scene) -> tuple[bool, bool]:
    place, comma, view = said.partition(",")
    names = dict(zip(("front", "side", "back", "top"), VIEWS, strict=True))
    right_places = (*CONTEXT_PHRASES[scene.context], ALIKE.get(scene.context))
    return place.strip() in right_places, comma + view == names.get(scene.camera.view or "", "")


def main() -> None:
    every: list[tuple[bool, bool]] = []
    for seed, noun in enumerate(NOUNS, start=300):
        with tempfile.TemporaryDirectory() as folder:
            every += read_right(noun, seed, Path(folder))
    places, views = (sum(column) for column in zip(*every, strict=True))
    sys.stdout.write(f"{len(every)} photos: place {places / len(every):.2f}, side {views / len(every):.2f}\n")


if __name__ == "__main__":
    main()
