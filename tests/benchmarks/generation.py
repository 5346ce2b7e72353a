"""What components of generation do to finished runs on the embedded base: give the run folders.

Prints a Markdown table: likeness to the subject's photos (DINO-I), the share of pictures that a probe sees in the style
of the reference, in the context of the prompt, and how far they are from the photo outside of the subject.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image

from modalities.core import generate, media
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.device import choose
from modalities.core.encoders import ImageEncoder
from modalities.core.machine import Machine
from modalities.core.metrics.dino_i import SubjectSimilarity
from modalities.mini.check import load_probe
from modalities.mini.probe import HEADS

BASE = Path(__file__).parents[2] / "modalities" / "mini" / "weights"
CONTEXTS = {"snow": "a {} in the snow", "forest": "a {} in the forest", "beach": "a {} on the beach"}
STYLES = {"cartoon": "a cartoon of a house on the beach", "watercolor": "a watercolor painting of a robot in the snow"}
PLACES = ("on the street", "in the desert", "in a red studio")
PICTURES = 3


def drawn(studio: Any, prompts: list[str], seed: int = 0) -> list[Image.Image]:
    return [generate.of_studio(studio, text, seed=seed, index=k) for text in prompts for k in range(PICTURES)]


def seen(probe: Any, images: list[Image.Image], head: str) -> list[str]:
    pixels = torch.stack([media.to_pixels(image) for image in images])
    with torch.no_grad():
        return [HEADS[head][int(place)] for place in probe(pixels)[head].argmax(1)]


def share(found: list[str], wanted: list[str]) -> float:
    return mean(one == other for one, other in zip(found, wanted, strict=True))


def main(folders: list[str]) -> None:
    machine = Machine(choose("cpu"), Cache(Path(tempfile.mkdtemp())), offline=True)
    encoder, probe = ImageEncoder(machine.subject_encoder, machine.device.torch, offline=True), load_probe(BASE)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for run in map(Artifact, map(Path, folders)):
        judge = SubjectSimilarity(encoder, [photo.open() for photo in run.photos()[0]])
        plain, wanted = run.studio(machine), [name for name in CONTEXTS for _ in range(PICTURES)]
        noun, prompts = plain.concept.noun, [plain.concept.prompt(text) for text in CONTEXTS.values()]
        before = drawn(plain, prompts)
        rows.setdefault("plain", []).append((mean(judge.score(before)), share(seen(probe, before, "context"), wanted)))
        for amount in (0.2, 0.4):
            studio = run.studio(machine, changes={"components": {"delayed_subject": {"share": amount}}})
            images = drawn(studio, prompts)
            scores = (mean(judge.score(images)), share(seen(probe, images, "context"), wanted))
            rows.setdefault(f"delayed_subject, share {amount}", []).append(scores)
        for style, text in STYLES.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "reference.png"
                media.save_png(generate.of_studio(plain, text, seed=7, index=0), path)
                rows.setdefault(f"plain, in {style}", []).append(
                    (mean(judge.score(before)), share(seen(probe, before, "style"), [style] * len(before)))
                )
                for shift in (0.0, 1.0, 2.0):
                    setting = {"reference": str(path), "prompt": text, "shift": shift}
                    images = drawn(run.studio(machine, changes={"components": {"style_aligned": setting}}), prompts)
                    scores = (mean(judge.score(images)), share(seen(probe, images, "style"), [style] * len(images)))
                    rows.setdefault(f"style_aligned, {style}, shift {shift:g}", []).append(scores)
        for place in PLACES:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "photo.png"
                photo = generate.of_studio(plain, f"a photo of a {noun} {place}", seed=3, index=0)
                media.save_png(photo, path)
                prompt, border = plain.concept.prompt(f"a photo of a {{}} {place}"), border_of(photo)
                swap = run.studio(machine, changes={"components": {"photo_swap": {"photo": str(path)}}})
                for name, studio in (("the photo itself", None), ("plain, of its place", plain), ("photo_swap", swap)):
                    image = photo if studio is None else generate.of_studio(studio, prompt, seed=0, index=0)
                    away = float((border_of(image) - border).abs().mean())
                    rows.setdefault(name, []).append((mean(judge.score([image])), away))
    sys.stdout.write("| | likeness | context, style, or distance of the border |\n| --- | --- | --- |\n")
    for name, scores in rows.items():
        sys.stdout.write(f"| {name} | " + " | ".join(f"{mean(one):.3f}" for one in zip(*scores, strict=True)) + " |\n")


def border_of(image: Image.Image) -> torch.Tensor:
    """The outer eighth of a picture."""
    pixels = media.to_pixels(image)
    inner = pixels.shape[1] // 8
    mask = torch.ones(pixels.shape[1:], dtype=torch.bool)
    mask[inner:-inner, inner:-inner] = False
    return pixels[:, mask]


if __name__ == "__main__":
    main(sys.argv[1:])
