"""Judges a run by the clips that it makes, with the base model and the learned clip as the two anchors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from modalities.core import media
from modalities.core.errors import PcsError
from modalities.core.files import fingerprint
from modalities.core.metric import Scores
from modalities.core.studio import Studio
from modalities.video.clips import read_clip, save_previews
from modalities.video.components.footage import Footage
from modalities.video.generate import clip_of_studio, frames_of
from modalities.video.learner import Learner
from modalities.video.scores import Judge, Reference, appearance_leak
from modalities.video.session import read_inversion

if TYPE_CHECKING:
    from modalities.core.artifact import Artifact
    from modalities.core.machine import Machine
    from modalities.core.progress import Progress

# Name -> whether higher is better, None where the reference's own value is the goal.
SCORES: dict[str, bool | None] = {
    "motion_fidelity": True,
    "path_error": False,
    "speed_ratio": None,
    "dynamic_degree": None,
    "frame_consistency": True,
    "warp_error": False,
    "clip_t": True,
    "subject": True,
    "appearance_leak": False,
}


@dataclass(frozen=True)
class VideoReport:
    """Scores of a run's clips, of the base's clips of the same noise, and of the learned clip itself."""

    run: dict[str, Scores]
    base: dict[str, Scores]
    reference: dict[str, float]
    clips: tuple[Path, ...]

    def names(self) -> list[str]:
        """The scores that could be had."""
        return [name for name in SCORES if name in self.run]


def evaluate(
    run: Artifact,
    machine: Machine,
    prompts: Sequence[str],
    *,
    count: int,
    seed: int,
    folder: Path,
    path_error: Callable[[Tensor], float] | None,
    progress: Progress,
) -> VideoReport:
    """Let a run and its base draw clips from the same noise, and score both.

    Args:
        run: finished.
        machine: where to compute, with the encoders that look.
        prompts: what to draw, {} for the subject; none takes what the run was previewed on.
        count: clips for each prompt.
        seed: of the noise.
        folder: where the clips go.
        path_error: how far a clip strays from the true path, where that is known.
        progress: told where the work stands.
    """
    studio, noise = run.studio(machine, progress), read_inversion(run)
    spelled = _spelled(run, prompts)
    reference = _reference(run, studio)
    if run.about()["clips"] and reference.frames is None:
        progress.warn("the learned clip is gone or has changed, so nothing is compared with it.")
    judge = Judge(reference, *machine.encoders())
    wanted = [(prompt, index) for prompt in spelled for index in range(count)]
    progress.start("drawing and judging", 2 * len(wanted))
    rows: dict[str, list[dict[str, float]]] = {"run": [], "base": []}
    written: list[Path] = []
    for number, ((phrased, plain), index) in enumerate(wanted):
        for who, prompt in (("base", plain), ("run", phrased)):
            frames = _drawn(studio, prompt, seed, index, noise, is_base=who == "base")
            path = folder / who / f"{number:03}.mp4"
            written += save_previews(frames, path, run.about()["frames_per_second"], {"prompt": prompt})[:1]
            scores = judge.score(frames, plain)
            if path_error:
                scores["path_error"] = path_error(frames)
            rows[who].append(scores)
            progress.advance()
    for row in (rows["run"], rows["base"]):
        for mine, base in zip(row, rows["base"], strict=True):
            if "likeness_to_clip" in base:
                mine["appearance_leak"] = appearance_leak(mine, base)
    groups = [prompt for (_, prompt), _ in wanted]
    anchor = {} if reference.frames is None else judge.score(reference.frames, spelled[0][1])
    if path_error and reference.frames is not None:
        anchor["path_error"] = path_error(reference.frames)
    return VideoReport(_summed(rows["run"], groups), _summed(rows["base"], groups), anchor, tuple(written))


def _spelled(run: Artifact, prompts: Sequence[str]) -> list[tuple[str, str]]:
    """Each prompt for the run, and for the base."""
    about, concept = run.about(), run.concept()
    has_subject = bool(about["photos"])
    if not prompts:
        own = about["templates"] or run.recipe().validation.prompts
        prompts = own if has_subject else about["captions"]
    bare = next((prompt for prompt in prompts if "{}" in prompt and not has_subject), None)
    if bare is not None:
        raise PcsError(f'"{bare}": the run learned no subject that could fill the {{}}; name what moves.')
    return [
        (concept.prompt(prompt), concept.class_prompt(prompt)) if "{}" in prompt else (prompt, prompt)
        for prompt in prompts
    ]


def _reference(run: Artifact, studio: Studio) -> Reference:
    """The learned clip and the photos, as far as they are still where they were."""
    about = run.about()
    footage = next((part for part in studio.components if isinstance(part, Footage)), Footage())
    frames: Tensor | None = None
    for name, digest in list(about["clips"].items())[:1]:
        if Path(name).is_file() and fingerprint(Path(name)) == digest:
            clip = read_clip(Path(name))
            chosen = clip.choose(frames_of(studio), footage.rate, footage.start, footage.stop)
            frames = clip.read(chosen, studio.resolution)
    photos: list[media.Image.Image] = []
    for name, digest in about["photos"].items():
        try:
            photo = media.read_photo(Path(name))
        except media.Unusable:
            continue
        if photo.digest == digest:
            photos.append(photo.open())
    return Reference(frames, tuple(photos))


def _drawn(studio: Studio, prompt: str, seed: int, index: int, noise: Tensor | None, *, is_base: bool) -> Tensor:
    """A clip of the run, or of the base alone from the same noise."""
    parts = [part for part in studio.components if isinstance(part, Learner)]
    weights = [part.weight for part in parts]
    try:
        for part in parts:
            part.weight = 0.0 if is_base else part.weight
        return clip_of_studio(studio, prompt, seed=seed, index=index, inverted=noise)
    finally:
        for part, weight in zip(parts, weights, strict=True):
            part.weight = weight


def _summed(rows: list[dict[str, float]], groups: list[str]) -> dict[str, Scores]:
    return {
        name: Scores.of_pictures([row.get(name, math.nan) for row in rows], groups)
        for name in SCORES
        if any(math.isfinite(row.get(name, math.nan)) for row in rows)
    }


def mean_of(scores: dict[str, Scores], name: str) -> float:
    """The mean of a score; NaN where it could not be had."""
    return scores[name].mean if name in scores else math.nan
