"""Whether a run of two subjects tells them apart, alone and in one picture: give the run folders.

Prints a Markdown table of mean likeness (DINO-I). Alone: pictures of one subject, to its own photos and to the other's.
In one picture: the halves of pictures of both, to the photos of the subject that each half resembles if the other half
resembles the other, whichever way fits better, and the crossed way. "both" is the share of pictures in which each half
is more like another subject.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean

from PIL import Image

from modalities.core import generate
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.device import choose
from modalities.core.encoders import ImageEncoder
from modalities.core.machine import Machine
from modalities.core.metrics.dino_i import SubjectSimilarity

ALONE = ("a {} in the snow", "a {} on the beach", "a {} on the grass")
TOGETHER = ("a {1} beside a {2} in the snow", "a {2} next to a {1} on the beach", "a {1} and a {2} on the grass")
PICTURES = 8
HEAD = "| run | alone: own | other | in one picture: own | crossed | both |\n| --- | --- | --- | --- | --- | --- |"


def halves(image: Image.Image) -> list[Image.Image]:
    """The left and the right half, as squares."""
    side = image.height
    parts = [image.crop((start, 0, start + side // 2, side)) for start in (0, side // 2)]
    return [part.resize((side, side), Image.Resampling.BICUBIC) for part in parts]


def row(folder: Path, machine: Machine) -> str:
    run = Artifact(folder)
    studio = run.studio(machine)
    encoder = ImageEncoder(machine.subject_encoder, machine.device.torch, offline=True)
    judges = [SubjectSimilarity(encoder, [photo.open() for photo in some]) for some in run.photos()]
    own, other = list[float](), list[float]()
    for number, one in enumerate(studio.concept.subjects):
        images = generate.previews(studio, [one.prompt(text) for text in ALONE], PICTURES)
        own += judges[number].score(images)
        other += judges[1 - number].score(images)
    straight, crossed, both = list[float](), list[float](), list[bool]()
    for image in generate.previews(studio, [studio.concept.prompt(text) for text in TOGETHER], PICTURES):
        first, second = (judge.score(halves(image)) for judge in judges)
        ways = sorted(((first[0] + second[1]) / 2, (first[1] + second[0]) / 2))
        crossed.append(ways[0])
        straight.append(ways[1])
        both.append((first[0] > second[0]) != (first[1] > second[1]))
    numbers = " | ".join(f"{mean(one):.3f}" for one in (own, other, straight, crossed, both))
    return f"| {folder.name} | {numbers} |"


def main(folders: list[str]) -> None:
    machine = Machine(choose("cpu"), Cache(Path(tempfile.mkdtemp())), offline=True)
    sys.stdout.write(HEAD + "\n")
    for folder in folders:
        sys.stdout.write(row(Path(folder), machine) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
