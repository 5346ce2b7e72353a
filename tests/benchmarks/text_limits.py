"""Between which limits CLIP-T tells anything on the mini world: `python -m tests.benchmarks.text_limits`.

Of the six subjects of `make bench-methods` and its prompts: the score of true renders of the subject in the scene that
the prompt asks for, of true renders of strangers of its class there, and of what the base draws for the class, four
pictures a prompt. A perfect answer has the first; more than that is not better. With the folder of a benchmark and its
recipes (`… runs/bench-methods image/best`) also, prompt by prompt, the score of what these drew beside the limits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modalities.core import bases, generate, media
from modalities.core.backbone import Backbone
from modalities.core.bench import Bench
from modalities.core.device import choose
from modalities.core.encoders import CLIP, TextImageEncoder
from modalities.core.metrics.clip_t import TextAlignment
from modalities.core.recipe import Sample
from modalities.mini.benchmark import PROMPTS, SEED
from modalities.mini.world import CLASS_NAMES, Scene, Subject, render

SUBJECTS, PICTURES = 6, 4
CONTEXTS = ("beach", "snow", "grass", "desert", "city", "moon", "forest", "street", "table", None, "lake", None)
SAMPLE = Sample(steps=12, guidance=3.0)
VIEWS = {6: "front", 7: "side", 8: "top"}
CHANGES = {9: {"accessory": "red hat"}, 10: {"style": "cartoon"}, 11: {"style": "pencil"}}


def scene(subject: Subject, number: int, seed: int) -> Scene:
    """A random scene with a subject that prompt `number` describes."""
    while True:
        one = Scene.random(seed, subject, CONTEXTS[number])
        if one.camera.view == VIEWS.get(number, one.camera.view):
            return replace(one, **CHANGES.get(number, {}))
        seed += 1000


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="of a finished benchmark of the same subjects")
    parser.add_argument("recipes", nargs="*", help="of it")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device = choose("cpu")
    alignment = TextAlignment(TextImageEncoder(CLIP, device.torch, offline=True))
    backbone = bases.load(bases.resolve("mini"), device, offline=True)
    scores: dict[str, list[list[float]]] = {}
    for index in range(SUBJECTS):
        kind = CLASS_NAMES[index]
        for name, pictures in _shown(backbone, index).items():
            rows = [
                alignment.score(pictures[start : start + PICTURES], [prompt.format(kind)] * PICTURES)[0]
                for start, prompt in zip(range(0, len(pictures), PICTURES), PROMPTS, strict=True)
            ]
            scores.setdefault(name, []).append(rows)
    for recipe in asked.recipes:
        scores[recipe] = [_scored(job.scores) for job in Bench.open(asked.folder, PICTURES, 0).jobs([recipe])]
    by_subject = [["by subject", *CLASS_NAMES[:SUBJECTS], "all"]]
    by_prompt = [["by prompt", *PROMPTS]]
    for name, values in scores.items():
        found = np.array(values)
        by_subject.append([name, *(f"{value:.3f}" for value in [*found.mean(1), found.mean()])])
        by_prompt.append([name, *(f"{value:.3f}" for value in found.mean(0))])
    sys.stdout.write(_table(by_subject) + "\n" + _table(list(zip(*by_prompt, strict=True))))


def _shown(backbone: Backbone, index: int) -> dict[str, list[Image.Image]]:
    """Of subject `index` all pictures, prompt by prompt."""
    kind = CLASS_NAMES[index]
    subject = Subject.random(SEED + index, kind, held_out=True)
    prompts = [prompt.format(kind) for prompt in PROMPTS for _ in range(PICTURES)]
    seeds = [(number, 10 * PICTURES * index + k) for number in range(len(PROMPTS)) for k in range(PICTURES)]
    strangers = [Subject.random(number, kind) for number in range(PICTURES)]
    scenes = {
        "the subject, rendered": [scene(subject, number, seed) for number, seed in seeds],
        "strangers, rendered": [scene(strangers[seed % PICTURES], number, seed) for number, seed in seeds],
    }
    shown = {name: [Image.fromarray(render(one, 64).image) for one in some] for name, some in scenes.items()}
    shown["the class, drawn by the base"] = [
        picture
        for start in range(0, len(prompts), 8)
        for picture in _drawn(backbone, prompts[start : start + 8], list(range(start, start + 8)))
    ]
    return shown


def _scored(path: Path) -> list[float]:
    """The mean score of each prompt, in their order, of a finished job."""
    values = json.loads(path.read_text(encoding="utf-8"))["metrics"]["clip_t"]["values"]
    return np.array(values, float).reshape(len(PROMPTS), PICTURES).mean(1).tolist()


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown, the first row on top."""
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join([lines[0], "|" + "---|" * len(rows[0]) + "\n", *lines[1:]])


def _drawn(backbone: Backbone, prompts: list[str], indices: list[int]) -> list[Image.Image]:
    made = generate.pictures(
        backbone, backbone.pipeline(), prompts, seed=0, indices=indices, sample=SAMPLE, side=backbone.resolution
    )
    return [media.to_image(pixels) for pixels in made]


if __name__ == "__main__":
    main()
