"""Scores of the clips that tests/benchmarks/motion.py has drawn, and their table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modalities.core.cache import Cache
from modalities.core.device import choose
from modalities.core.machine import Machine
from modalities.core.metric import Scores
from modalities.core.report import contact_sheet
from modalities.mini.motion import Clip
from modalities.mini.paths import path_error
from modalities.video.clips import as_images, read_clip
from modalities.video.scores import Judge, Reference, appearance_leak

HEADS = {
    "motion_fidelity": "fidelity",
    "path_error": "path error",
    "speed_ratio": "speed ratio",
    "frame_consistency": "consistency",
    "clip_t": "CLIP-T",
    "appearance_leak": "leak",
}


def place(folder: Path, motion: str, arm: str, index: int) -> Path:
    """Where one drawn clip lies."""
    return folder / motion.replace(" ", "-") / arm.replace(" ", "-") / f"{index}.npz"


def tables(
    folder: Path, motions: tuple[str, ...], arms: tuple[str, ...], pairs: tuple[tuple[str, str], ...], subjects: int
) -> str:
    """The mean of every score by arm, and of its differences between pairs of arms; writes sheets of frames.

    Each mean has its 95 % interval, motions resampled whole.
    """
    rows: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    groups: list[str] = []
    for motion in motions:
        source = folder / f"{motion.replace(' ', '-')}.mp4"
        if not all(place(folder, motion, arm, index).is_file() for arm in arms for index in range(subjects)):
            continue
        judge, sheet = _judge(source, folder), [(f"the clip: {motion}", as_images(_frames(source)))]
        path = torch.from_numpy(Clip.random(0, motion).path())
        for index in range(subjects):
            groups.append(motion)
            base: dict[str, float] = {}
            for arm in arms:
                frames, prompt = _drawn(place(folder, motion, arm, index))
                sheet.append((f"{arm}: {prompt}", as_images(frames)))
                scores = judge.score(frames, prompt) | {"path_error": path_error(frames, path)}
                rows[arm].append(scores)
                # Arms come after the base that began from the same noise.
                base = scores if arm.startswith("base") else base
                scores["appearance_leak"] = appearance_leak(scores, base)
        contact_sheet(sheet).save(folder / f"{motion.replace(' ', '-')}.png")
    apart: dict[str, list[dict[str, float]]] = {}
    for one, other in pairs:
        both = zip(rows[one], rows[other], strict=True)
        apart[f"{one} less {other}"] = [{name: here[name] - there[name] for name in HEADS} for here, there in both]
    head = f"{len(groups)} clips an arm, of {len(set(groups))} motions: {', '.join(dict.fromkeys(groups))}"
    return "\n\n".join([head, _written(rows, groups), _written(apart, groups)])


def _judge(source: Path, folder: Path) -> Judge:
    machine = Machine(choose("cpu"), Cache(folder / "cache"), offline=True)
    return Judge(Reference(_frames(source)), *machine.encoders())


def _frames(source: Path) -> Tensor:
    return read_clip(source).read(range(8), 64)


def _drawn(path: Path) -> tuple[Tensor, str]:
    with np.load(path) as stored:
        return torch.from_numpy(stored["clip"]).float() / 255, str(stored["prompt"])


def _written(rows: dict[str, list[dict[str, float]]], groups: list[str]) -> str:
    lines = [f"| | {' | '.join(HEADS.values())} |", "|---|" + "---|" * len(HEADS)]
    for arm, scores in rows.items():
        cells: list[str] = []
        for name in HEADS:
            found = Scores.of_pictures([one[name] for one in scores], groups)
            cells.append(f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)
