"""Measures what `pcs eval` adds to the encoders' own time, and whether memory grows with the pictures.

`make bench-eval` writes docs/benchmarks-eval.md.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
from PIL import Image

from modalities.core.cache import Cache
from modalities.core.device import choose
from modalities.core.encoders import CLIP
from modalities.core.evaluate import evaluate
from modalities.core.evidence import BATCH, Evidence, Gallery, Picture, photos_of
from modalities.core.machine import Machine
from modalities.mini.captions import CONTEXT_PHRASES
from modalities.mini.world import CONTEXTS, Scene, Subject, render

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks-eval.md"
METRICS = ("clip_t", "dino_i", "clip_i", "copy", "diversity")
INTRODUCTION = """# What `pcs eval` adds to its encoders

`make bench-eval` wrote this table in one run on one machine. *Encoders* is their time on pictures that are decoded
already; *eval* is all of reading, looking and scoring, by {metrics}. The embedded encoders take a few milliseconds a
picture, no more than reading a PNG of 512 x 512 pixels does. Networks of the shape of CLIP ViT-B/32 and DINOv2 ViT-S/14
(untrained, which costs the same) take as long as the field's own.

| encoders | pictures | side | encoders s | eval s | overhead | memory above the start MB |
|---|---|---|---|---|---|---|
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


def full_size(folder: Path) -> dict[str, str]:
    """Untrained networks of the shape of CLIP ViT-B/32 and DINOv2 ViT-S/14, as folders that encoders load."""
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

    clip, subject = folder / "clip", folder / "subject"
    tokens = json.loads((Path(CLIP) / "config.json").read_text(encoding="utf-8"))["text_config"]
    words = {name: tokens[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    CLIPModel(CLIPConfig(text_config=words)).save_pretrained(clip)
    Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=224)).save_pretrained(subject)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(CLIP) / name, clip)
    for kind, place in (("CLIPImageProcessor", clip), ("BitImageProcessor", subject)):
        size = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
        (place / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **size}))
    return {"clip": str(clip), "subject_encoder": str(subject)}


def main(counts: list[int]) -> None:
    """Measure for each number of pictures."""
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        small = Machine(choose("cpu"), Cache(Path(place) / "cache"), offline=True)
        large = replace(small, **full_size(Path(place) / "full"))
        for side, count in itertools.product((64, 512), counts):
            folder = Path(place) / f"{side}-{count}"
            folder.mkdir()
            gallery = pictures(folder, count, side)
            (folder / "photos").mkdir()
            for number in range(5):
                (folder / "photos" / f"{number}.png").hardlink_to(folder / f"{number:05}.png")
            photos = photos_of(folder / "photos")
            rows.append(measured("embedded", Evidence(gallery, small, photos)))
            if side == 512:
                rows.append(measured("full size", Evidence(gallery, large, photos)))
    DOCUMENT.write_text(INTRODUCTION.format(metrics=", ".join(METRICS)) + "\n".join(rows) + "\n", encoding="utf-8")


def measured(title: str, evidence: Evidence) -> str:
    """One line of the table. The encoders alone are timed half before and half after, since machines are noisy."""
    process, found = psutil.Process(), evidence.gallery.pictures
    encoders = [evidence.encoder(name) for name in ("clip", "subject")]
    decoded = [Image.open(one.path).convert("RGB") for one in found[:BATCH]]
    batches = len(found) // BATCH // 2

    def encode() -> float:
        started = time.perf_counter()
        for _ in range(batches):
            for encoder in encoders:
                encoder(decoded)
        return time.perf_counter() - started

    for encoder in encoders:
        encoder(decoded)
    alone = encode()
    before, started = process.memory_info().rss, time.perf_counter()
    evaluate(evidence, METRICS)
    whole, after = time.perf_counter() - started, process.memory_info().rss
    alone = (alone + encode()) * len(found) / (2 * batches * BATCH)
    side, grown = decoded[0].width, max(0, after - before) / 1e6
    row = f"| {title} | {len(found)} | {side} | {alone:.1f} | {whole:.1f} | {whole / alone - 1:+.0%} | {grown:.0f} |"
    sys.stderr.write(row + "\n")
    return row


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [100, 400])
