"""Measures what `pcs eval` adds to the encoders' own time, and whether memory grows with the pictures.

`make bench-eval` writes docs/benchmarks-eval.md.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image

from modalities.core.cache import Cache
from modalities.core.device import choose
from modalities.core.evaluate import evaluate
from modalities.core.evidence import BATCH, Evidence, Gallery, Picture, photos_of
from modalities.core.machine import Machine
from modalities.mini.captions import CONTEXT_PHRASES
from modalities.mini.world import CONTEXTS, Scene, Subject, render

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks-eval.md"
METRICS = ("clip_t", "dino_i", "clip_i", "copy", "diversity")
INTRODUCTION = """# What `pcs eval` adds to its encoders

`make bench-eval` wrote this table, with the embedded encoders, in one run on one machine. *Encoders* is their time on
pictures that are decoded already; *eval* is all of reading, looking and scoring, by {metrics}. The embedded encoders
take two milliseconds a picture, less than reading a PNG of 512 x 512 pixels does; CLIP and DINOv2 take tens.

| pictures | side | encoders s | eval s | overhead | memory above the start MB |
|---|---|---|---|---|---|
"""


def pictures(folder: Path, count: int, side: int) -> Gallery:
    """`count` drawings of one subject, 100 different ones at most."""
    subject = Subject.random(1, "mug")
    made: list[Picture] = []
    for number in range(count):
        context = CONTEXTS[number % len(CONTEXTS)]
        path = folder / f"{number:05}.png"
        if number < 100:
            scene = Scene.random(number, subject, context)
            Image.fromarray(render(scene, 64).image).resize((side, side), Image.Resampling.BICUBIC).save(path)
        else:
            path.hardlink_to(folder / f"{number % 100:05}.png")
        made.append(Picture(path, f"a mug {CONTEXT_PHRASES[context][0]}"))
    return Gallery("mugs", tuple(made))


def main(counts: list[int]) -> None:
    """Measure for each number of pictures."""
    process, rows = psutil.Process(), list[str]()
    with tempfile.TemporaryDirectory() as place:
        machine = Machine(choose("cpu"), Cache(Path(place) / "cache"), offline=True)
        for side, count in itertools.product((64, 512), counts):
            folder = Path(place) / f"{side}-{count}"
            folder.mkdir()
            gallery = pictures(folder, count, side)
            (folder / "photos").mkdir()
            for number in range(5):
                (folder / "photos" / f"{number}.png").hardlink_to(folder / f"{number:05}.png")
            evidence = Evidence(gallery, machine, photos_of(folder / "photos"))
            encoders = [evidence.encoder(name) for name in ("clip", "subject")]
            decoded = [Image.open(one.path).convert("RGB") for one in gallery.pictures[:BATCH]]
            for encoder in encoders:
                encoder(decoded)
            started = time.perf_counter()
            for _ in range(count // BATCH):
                for encoder in encoders:
                    encoder(decoded)
            alone = (time.perf_counter() - started) * count / (count // BATCH * BATCH)
            before, started = process.memory_info().rss, time.perf_counter()
            evaluate(evidence, METRICS)
            whole, after = time.perf_counter() - started, process.memory_info().rss
            grown = max(0, after - before) / 1e6
            rows.append(f"| {count} | {side} | {alone:.1f} | {whole:.1f} | {whole / alone - 1:+.0%} | {grown:.0f} |")
            sys.stderr.write(rows[-1] + "\n")
    DOCUMENT.write_text(INTRODUCTION.format(metrics=", ".join(METRICS)) + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [300, 1000, 3000])
