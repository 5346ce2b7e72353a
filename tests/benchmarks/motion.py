"""Does the motion of a clip come over without its looks? Motion-only runs on mini, judged against the world's truth.

`python -m tests.benchmarks.motion FOLDER [--subjects N]` learns each of six motions from one clip of a held-out
subject, with MotionDirector and with a plain LoRA of the same layers at the same steps, lets both and the base draw N
other held-out subjects from the same noise, with a share of the clip's own noise and without, and prints the table of
docs/video.md. Prompts say nothing of the motion. The recipe's numbers were chosen on jumps of other subjects, which
hence come last. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from modalities.core import bases, recipe
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.studio import Studio
from modalities.mini.check import clip_prompt_of
from modalities.mini.motion import MOTION_PHRASES, Clip, render_clip
from modalities.mini.world import CONTEXTS, Scene, Subject
from modalities.video.clips import save_clip
from modalities.video.components.footage import Footage
from modalities.video.concept import with_clips
from modalities.video.customize import narrowed
from modalities.video.generate import clip_of_studio
from modalities.video.trainer import VideoTrainer
from tests.benchmarks import motion_table

MOTIONS = ("slide right", "swing", "grow", "slide left", "roll", "jump")
SHOWN, ASKED = (
    ("robot", "mug", "backpack", "teapot", "dog", "duck"),
    ("mug", "duck", "robot", "backpack", "teapot", "dog"),
)
# What an arm leaves out of the recipe; plain is a LoRA of the same layers on the plain loss, the base learns nothing.
ARMS: dict[str, tuple[str, ...] | None] = {
    "base": None,
    "plain LoRA": ("appearance_absorber", "appearance_debiased_loss"),
    "MotionDirector": (),
}
NO_PRIOR = ", no prior"
ROWS = tuple(f"{arm}{start}" for start in (NO_PRIOR, "") for arm in ARMS)
SEED = 7_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for number, motion in enumerate(MOTIONS):
        for arm, without in ARMS.items():
            _draw(asked.folder, number, motion, arm, without, asked.subjects)
    sys.stdout.write(motion_table.table(asked.folder, MOTIONS, ROWS, asked.subjects) + "\n")


def shown(number: int, motion: str) -> Clip:
    """The clip that a motion is learned from."""
    subject = Subject.random(SEED + number, SHOWN[number], held_out=True)
    scene = Scene.random(SEED + number, subject, CONTEXTS[number], held_out=True)
    return Clip.random(SEED + number, motion, scene)


def asked_for(number: int, motion: str, index: int) -> Clip:
    """What is then to be drawn: the motion of another subject in another place."""
    kinds = [kind for kind in ASKED if kind != SHOWN[number]]
    seed = SEED + 100 + 10 * number + index
    subject = Subject.random(seed, kinds[(number + index) % len(kinds)], held_out=True)
    scene = Scene.random(seed, subject, CONTEXTS[(number + 1 + index) % len(CONTEXTS)], held_out=True)
    return Clip.random(seed, motion, scene)


def without_motion(clip: Clip) -> str:
    """What a clip shows, without a word of how it moves: mini knows these motions by name, so only the clip tells."""
    return clip_prompt_of(clip).replace(f" {MOTION_PHRASES[clip.motion][0]}", "")


def _draw(folder: Path, number: int, motion: str, arm: str, without: tuple[str, ...] | None, subjects: int) -> None:
    """Draw what is missing of one motion by one arm, from the clip's noise and without."""
    places = {
        (index, start): motion_table.place(folder, motion, arm + start, index)
        for index in range(subjects)
        for start in (NO_PRIOR, "")
    }
    missing = {key: path for key, path in places.items() if not path.is_file()}
    if not missing:
        return
    source = folder / f"{motion.replace(' ', '-')}.mp4"
    clip = shown(number, motion)
    if not source.is_file():
        save_clip(torch.from_numpy(render_clip(clip, 128)).permute(0, 3, 1, 2) / 255, source, 8)
    studio = _learned(source, clip, without, Cache(folder / "cache"))
    noise = next(part for part in studio.components if isinstance(part, Footage)).inversion()
    for (index, start), path in missing.items():
        prompt = without_motion(asked_for(number, motion, index))
        made = clip_of_studio(studio, prompt, seed=0, index=index, inverted=None if start else noise)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, clip=(made * 255).round().byte().numpy(), prompt=prompt)
        sys.stderr.write(f"{path}\n")


def _learned(source: Path, clip: Clip, without: tuple[str, ...] | None, cache: Cache) -> Studio:
    """The base after it has learned a clip; the base itself if there is nothing to leave out."""
    chosen = recipe.load("video/motiondirector")
    parts = [part for part in chosen.components if part.name not in (without or ())]
    learn = {part.name for part in parts}
    phases = [
        phase.model_copy(update={"learn": {name: rate for name, rate in phase.learn.items() if name in learn}})
        for phase in chosen.phases
    ]
    chosen = chosen.model_copy(update={"components": parts, "phases": phases})
    concept = with_clips(Concept("thing", "thing"), [source], [without_motion(clip)])
    chosen = narrowed(chosen, photos=False, clips=True)
    backbone = bases.load(bases.resolve(chosen.backbone), choose("cpu"), offline=True)
    studio = Studio(backbone, concept, chosen, training=True, cache=cache)
    trainer = VideoTrainer(studio)
    while without is not None and trainer.step < trainer.total:
        trainer.advance()
    studio.set_learning({})
    return studio


if __name__ == "__main__":
    main()
