"""Scenes of the mini world as files: the picture, and everything that is true of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modalities.core import media
from modalities.core.errors import PcsError
from modalities.core.files import write_text
from modalities.core.progress import Progress
from modalities.mini.captions import caption
from modalities.mini.world import CONTEXTS, Render, Scene, Subject, render

# A depth picture holds thousandths of a subject radius.
DEPTH_UNIT = 1e-3


def portraits(subject: Subject, seed: int, count: int) -> list[Scene]:
    """`count` scenes of one individual, no context twice before each was there once, from all around."""
    order = np.random.default_rng([seed, *b"portraits"]).permutation(len(CONTEXTS))
    contexts = [CONTEXTS[order[number % len(CONTEXTS)]] for number in range(count)]
    return [Scene.random(seed * 1_000_000 + number, subject, context) for number, context in enumerate(contexts)]


def gallery(seed: int, count: int, class_name: str | None = None, *, held_out: bool = False) -> list[Scene]:
    """`count` scenes, each of another individual; of one class if it is named."""
    numbers = range(seed * 1_000_000, seed * 1_000_000 + count)
    return [
        Scene.random(number, Subject.random(number, class_name, held_out=held_out), held_out=held_out)
        for number in numbers
    ]


def truth_of(picture: Render, seed: int) -> dict[str, Any]:
    """What is true of a picture: words, identity, camera, light, and the subject's box in pixels (right end open)."""
    scene = picture.scene
    rows, columns = (np.flatnonzero(picture.mask.any(axis)) for axis in (1, 0))
    return {
        "caption": caption(scene, np.random.default_rng([seed, *b"caption"])),
        "class": scene.subject.class_name,
        "context": scene.context,
        "view": scene.camera.view,
        "box": [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1],
        "identity": [round(float(value), 6) for value in scene.subject.identity],
        "subject": asdict(scene.subject),
        "camera": asdict(scene.camera),
        "light": asdict(scene.light),
        "variety": scene.variety,
    }


def write_scenes(scenes: Sequence[Scene], folder: Path, size: int, progress: Progress) -> Path:
    """Render scenes into `folder`; return the folder of the pictures alone, which training takes as it is.

    photos/0000.png is the picture, masks/0000.png is 255 where the subject is, depth/0000.png has 16 bits in units of
    `DEPTH_UNIT` (0 where the subject is not), and line n of truth.jsonl is `truth_of` picture n.

    Raises:
        PcsError: the folder holds scenes already.
    """
    listing = folder / "truth.jsonl"
    if listing.exists():
        raise PcsError(f"{folder}: already holds rendered scenes; choose another folder.")
    progress.start("rendering", len(scenes))
    lines: list[str] = []
    for number, scene in enumerate(scenes):
        picture = render(scene, size)
        name = f"{number:04}.png"
        media.save_png(Image.fromarray(picture.image), folder / "photos" / name)
        media.save_png(Image.fromarray(picture.mask), folder / "masks" / name)
        depth = np.round(picture.depth / DEPTH_UNIT).astype(np.uint16)
        media.save_png(Image.fromarray(depth), folder / "depth" / name)
        lines.append(json.dumps({"file": f"photos/{name}", **truth_of(picture, number)}) + "\n")
        progress.advance()
    write_text(listing, "".join(lines))
    return folder / "photos"
