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
from modalities.mini.captions import caption, clip_caption
from modalities.mini.motion import Clip
from modalities.mini.world import CONTEXTS, Render, Scene, Subject, render

# A depth picture holds thousandths of a subject radius.
DEPTH_UNIT = 1e-3


def portraits(subject: Subject, seed: int, count: int) -> list[Scene]:
    """`count` scenes of one individual, no context twice before each was there once, from all around."""
    order = np.random.default_rng([seed, *b"portraits"]).permutation(len(CONTEXTS))
    contexts = [CONTEXTS[order[number % len(CONTEXTS)]] for number in range(count)]
    return [Scene.random(seed * 1_000_000 + number, subject, context) for number, context in enumerate(contexts)]


def gallery(
    seed: int, count: int, class_name: str | None = None, *, held_out: bool = False, varied: bool = False
) -> list[Scene]:
    """`count` scenes, each of another individual; of one class if it is named; of the second ring if `varied`."""
    numbers = range(seed * 1_000_000, seed * 1_000_000 + count)
    draw = Scene.varied if varied else Scene.random
    return [
        draw(number, Subject.random(number, class_name, held_out=held_out), held_out=held_out) for number in numbers
    ]


def reel(
    seed: int, count: int, motion: str | None = None, subject: Subject | None = None, *, held_out: bool = False
) -> list[Clip]:
    """`count` clips, of one motion or of one individual if given."""
    numbers = range(seed * 1_000_000, seed * 1_000_000 + count)
    scenes = [Scene.random(number, subject, held_out=held_out) for number in numbers]
    return [Clip.random(number, motion, scene) for number, scene in zip(numbers, scenes, strict=True)]


def truth_of(picture: Render, seed: int) -> dict[str, Any]:
    """What is true of a picture: words, identity, camera, light, and the subject's box in pixels (right end open)."""
    scene = picture.scene
    return {
        "caption": caption(scene, np.random.default_rng([seed, *b"caption"])),
        "class": scene.subject.class_name,
        "context": scene.context,
        "view": scene.camera.view,
        "box": _box(picture.mask),
        "identity": [round(float(value), 6) for value in scene.subject.identity],
        "subject": asdict(scene.subject),
        "camera": asdict(scene.camera),
        "light": asdict(scene.light),
        "variety": scene.variety,
        "style": scene.style,
        "finish": scene.finish,
        "accessory": scene.accessory,
        "pose": asdict(scene.pose),
        "companion": None if scene.companion is None else asdict(scene.companion),
        "companion_box": None if picture.companion_mask is None else _box(picture.companion_mask),
    }


def _box(mask: np.ndarray) -> list[int] | None:
    """Left, top, right and bottom of what a mask (H, W) covers, right and bottom open; None if that is nothing."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def write_scenes(scenes: Sequence[Scene], folder: Path, size: int, progress: Progress) -> Path:
    """Render scenes into `folder`; return the folder of the pictures alone, which training takes as it is.

    photos/0000.png is the picture, masks/0000.png is 255 where the subject is, companion_masks/0000.png where its
    companion is if it has one, depth/0000.png has 16 bits in units of `DEPTH_UNIT` (0 where nothing stands), and line
    n of truth.jsonl is `truth_of` picture n.

    Raises:
        PcsError: the folder holds scenes already.
    """
    listing = _listing(folder)
    progress.start("rendering", len(scenes))
    lines: list[str] = []
    for number, scene in enumerate(scenes):
        picture = render(scene, size)
        name = f"{number:04}.png"
        media.save_png(Image.fromarray(picture.image), folder / "photos" / name)
        media.save_png(Image.fromarray(picture.mask), folder / "masks" / name)
        if picture.companion_mask is not None:
            media.save_png(Image.fromarray(picture.companion_mask), folder / "companion_masks" / name)
        depth = np.round(picture.depth / DEPTH_UNIT).astype(np.uint16)
        media.save_png(Image.fromarray(depth), folder / "depth" / name)
        lines.append(json.dumps({"file": f"photos/{name}", **truth_of(picture, number)}) + "\n")
        progress.advance()
    write_text(listing, "".join(lines))
    return folder / "photos"


def write_clips(clips: Sequence[Clip], folder: Path, size: int, progress: Progress) -> Path:
    """Render clips into `folder`; return the folder of the moving pictures.

    clips/0000.gif plays clip 0, frames/0000/00.png are its exact frames, masks/0000/00.png those of its subject, and
    line n of truth.jsonl tells of clip n: motion, path (see `Clip.path`), and `truth_of` each frame.

    Raises:
        PcsError: the folder holds scenes or clips already.
    """
    listing = _listing(folder)
    progress.start("rendering", len(clips))
    lines: list[str] = []
    for number, clip in enumerate(clips):
        pictures = [render(scene, size) for scene in clip.scenes()]
        name = f"{number:04}"
        for index, picture in enumerate(pictures):
            media.save_png(Image.fromarray(picture.image), folder / "frames" / name / f"{index:02}.png")
            media.save_png(Image.fromarray(picture.mask), folder / "masks" / name / f"{index:02}.png")
        media.save_gif([Image.fromarray(picture.image) for picture in pictures], folder / "clips" / f"{name}.gif")
        truth = {
            "file": f"clips/{name}.gif",
            "caption": clip_caption(clip, np.random.default_rng([number, *b"clip"])),
            "motion": clip.motion,
            "path": [[round(value, 6) for value in point] for point in clip.path().tolist()],
            "frames": [truth_of(picture, number) for picture in pictures],
        }
        lines.append(json.dumps(truth) + "\n")
        progress.advance()
    write_text(listing, "".join(lines))
    return folder / "clips"


def _listing(folder: Path) -> Path:
    """Where the truth of a folder is told, if nothing is told there yet."""
    listing = folder / "truth.jsonl"
    if listing.exists():
        raise PcsError(f"{folder}: already holds rendered scenes; choose another folder.")
    return listing
