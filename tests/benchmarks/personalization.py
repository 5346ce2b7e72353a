"""Measures on held-out subjects of the mini world what each method takes over of them, and what it costs.

`make bench-methods` writes docs/personalization.md. Truth is at hand, so likeness has a scale: 0 is a
stranger of the same class, 1 is the subject itself, rendered in the very contexts that are asked for.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image

from modalities.core import generate, media, recipe
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.machine import Machine
from modalities.core.metrics.dino_i import SubjectSimilarity
from modalities.core.personalize import personalize
from modalities.mini.captions import CONTEXT_PHRASES
from modalities.mini.check import load_probe
from modalities.mini.probe import HEADS
from modalities.mini.world import CONTEXTS, Camera, Scene, Subject, render

ROOT = Path(__file__).parents[2]
BASE = ROOT / "modalities" / "mini" / "weights"
KINDS = ("mug", "robot", "backpack", "duck", "car", "teapot", "dog", "house")
SEED = 9100
TAKEN_IN = ("table", "street", "red studio", "forest", "blue studio")
ASKED_FOR = tuple(context for context in CONTEXTS if context not in TAKEN_IN)
PICTURES = 2
LONG = {"components": {"prior_preservation": None}, "train": {"steps": 600, "schedule": "constant"}}
DOCUMENT = ROOT / "docs" / "personalization.md"
INTRODUCTION = """# What each method takes over of a subject

`make bench-methods` wrote this table. Each method learned one held-out subject of the mini world from five
pictures, for each of these classes: {subjects}. Then it drew the subject in seven contexts of which it had no
picture, two drawings each, with the settings that its recipe has for `mini`.

- **likeness**: cosine of the subject encoder's features with the photos, on a scale where 0 is four strangers of the
  same class and 1 is the subject itself, both truly rendered in the contexts asked for; mean over the subjects, and
  of the worst of them.
- **context**, **class**: share of the drawings in which the probe sees the context and the class asked for.
- **drift**: likeness of drawings whose prompt names the class alone; 0 is best, since they should be strangers.
- **seconds** on two CPU cores, from the photos to the finished run folder.

"""
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "DreamBooth LoRA (default)": ("image/dreambooth_lora", {}),
    "Textual Inversion": ("image/textual_inversion", {}),
    "pivotal tuning": ("image/pivotal_tuning", {}),
    "DreamBooth": ("image/dreambooth", {}),
    "DreamBooth, five times as long, no prior": ("image/dreambooth", LONG),
}


@dataclass(frozen=True)
class Score:
    """One method on one subject. likeness: 0 a stranger, 1 the subject. Shares are of the drawings.

    drift: likeness of drawings of the class without the subject's name, on the same scale.
    """

    likeness: float
    context: float
    kind: float
    drift: float
    seconds: float


def photos(folder: Path, subject: Subject) -> Path:
    """Five pictures of a subject from around its front, each in another context."""
    folder.mkdir(parents=True)
    for number, context in enumerate(TAKEN_IN):
        camera = Camera(azimuth_degrees=-80 + 45 * number, elevation_degrees=12 + 2 * number)
        Image.fromarray(render(Scene(subject, context, camera), 128).image).save(folder / f"{number}.png")
    return folder


def in_asked_contexts(subject: Subject, seed: int) -> list[Image.Image]:
    """True pictures of a subject in the contexts that are asked for."""
    scenes = [
        Scene.random(seed * 1000 + number, subject, context) for number, context in enumerate(ASKED_FOR * PICTURES)
    ]
    return [Image.fromarray(render(scene, 64).image) for scene in scenes]


def score(name: str, changes: dict[str, Any], kind: str, machine: Machine, folder: Path) -> Score:
    """Train one method on one subject and judge what it draws in contexts without a photo."""
    subject = Subject.random(SEED, kind, held_out=True)
    method = recipe.load(name, changes)
    concept = Concept.from_folder(photos(folder / "photos", subject), noun=kind, subject=method.data.subject)
    run: Artifact = personalize(method, concept, folder / "run", machine)
    studio = run.studio(machine)
    prompts = [f"a photo of a {{}} {CONTEXT_PHRASES[context][0]}" for context in ASKED_FOR]
    mine = generate.previews(studio, [concept.prompt(prompt) for prompt in prompts], PICTURES)
    plain = generate.previews(studio, [concept.class_prompt(prompt) for prompt in prompts], PICTURES)
    likeness = SubjectSimilarity(
        machine.encoders()[0], [Image.open(path) for path in sorted((folder / "photos").iterdir())]
    )
    strangers = [
        picture for other in range(4) for picture in in_asked_contexts(Subject.random(SEED + 1 + other, kind), other)
    ]
    low = mean(likeness.score(strangers))
    high = mean(likeness.score(in_asked_contexts(subject, 9)))
    seen = load_probe(BASE)(torch.stack([media.to_pixels(picture) for picture in mine]))
    contexts = torch.tensor([HEADS["context"].index(context) for context in ASKED_FOR]).repeat_interleave(PICTURES)
    return Score(
        likeness=(mean(likeness.score(mine)) - low) / (high - low),
        context=float((seen["context"].argmax(1) == contexts).float().mean()),
        kind=float((seen["class"].argmax(1) == HEADS["class"].index(kind)).float().mean()),
        drift=(mean(likeness.score(plain)) - low) / (high - low),
        seconds=float(run.about()["seconds"]),
    )


def main(kinds: list[str]) -> None:
    """Run all methods on all subjects and write the table; arguments name fewer subjects."""
    rows = ["| method | likeness | of the worst | context | class | drift | seconds |", "|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(choose("cpu"), Cache(Path(folder) / "cache"), offline=True)
        for title, (name, changes) in METHODS.items():
            scores: list[Score] = []
            for kind in kinds:
                scores.append(score(name, changes, kind, machine, Path(folder) / title / kind))
                sys.stderr.write(f"{title}: {kind} {scores[-1]}\n")
            cells = [
                mean(one.likeness for one in scores),
                min(one.likeness for one in scores),
                mean(one.context for one in scores),
                mean(one.kind for one in scores),
                mean(one.drift for one in scores),
            ]
            seconds = mean(one.seconds for one in scores)
            rows.append(f"| {title} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {seconds:.0f} |")
    DOCUMENT.write_text(f"{INTRODUCTION.format(subjects=', '.join(kinds))}{chr(10).join(rows)}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or list(KINDS))
