"""Between which limits CLIP-T tells anything on the mini world: `python -m tests.benchmarks.text_limits`.

Of the six subjects of `make bench-methods` and its prompts: the score of true renders of the subject in the scene that
the prompt asks for, of true renders of strangers of its class there, and of what the base draws for the class, four
pictures a prompt. A perfect answer has the first; more than that is not better.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from PIL import Image

from modalities.core import bases, generate, media
from modalities.core.backbone import Backbone
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
    """Print a table."""
    torch.set_num_threads(1)
    device = choose("cpu")
    alignment = TextAlignment(TextImageEncoder(CLIP, device.torch, offline=True))
    backbone = bases.load(bases.resolve("mini"), device, offline=True)
    rows: dict[str, list[float]] = {}
    for index in range(SUBJECTS):
        kind = CLASS_NAMES[index]
        subject = Subject.random(SEED + index, kind, held_out=True)
        prompts = [prompt.format(kind) for prompt in PROMPTS for _ in range(PICTURES)]
        seeds = [(number, 10 * PICTURES * index + k) for number in range(len(PROMPTS)) for k in range(PICTURES)]
        strangers = [Subject.random(number, kind) for number in range(PICTURES)]
        shown = {
            "the subject, rendered": [scene(subject, number, seed) for number, seed in seeds],
            "strangers, rendered": [scene(strangers[seed % PICTURES], number, seed) for number, seed in seeds],
        }
        images = {name: [Image.fromarray(render(one, 64).image) for one in scenes] for name, scenes in shown.items()}
        images["the class, drawn by the base"] = [
            picture
            for start in range(0, len(prompts), 8)
            for picture in _drawn(backbone, prompts[start : start + 8], list(range(start, start + 8)))
        ]
        for name, pictures in images.items():
            rows.setdefault(name, []).append(alignment.score(pictures, prompts)[0])
    lines = ["| pictures | clip_t | by subject |", "|---|---|---|"]
    for name, values in rows.items():
        each = ", ".join(f"{CLASS_NAMES[i]} {value:.3f}" for i, value in enumerate(values))
        lines.append(f"| {name} | {sum(values) / len(values):.3f} | {each} |")
    sys.stdout.write("\n".join([*lines, ""]))


def _drawn(backbone: Backbone, prompts: list[str], indices: list[int]) -> list[Image.Image]:
    made = generate.pictures(
        backbone, backbone.pipeline(), prompts, seed=0, indices=indices, sample=SAMPLE, side=backbone.resolution
    )
    return [media.to_image(pixels) for pixels in made]


if __name__ == "__main__":
    main()
