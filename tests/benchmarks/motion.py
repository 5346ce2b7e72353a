"""Does the motion of a clip come over without its looks? Motion-only runs on mini, judged against the world's truth.

`python -m tests.benchmarks.motion FOLDER [--subjects N] [--steps N] [--motions NAME …]` learns each of six motions from
one clip of a held-out subject, with MotionDirector, with plain LoRAs of the same layers and of all, and with the
frame-centred loss in place of its debiasing, at the same steps. These and the base draw N other held-out subjects from
the same noise, guided by the motion and not; the tables of docs/video.md are printed. Prompts say nothing of the
motion. The recipe's numbers were chosen on other subjects that jump, slide to the left and swing. It goes on where it
was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from modalities.core import bases, recipe
from modalities.core.cache import Cache
from modalities.core.component import Component
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.studio import Studio
from modalities.mini.check import clip_prompt_of
from modalities.mini.motion import MOTION_PHRASES, Clip, render_clip
from modalities.mini.world import CONTEXTS, Scene, Subject
from modalities.video.clips import save_clip
from modalities.video.components.frame_centred_loss import FrameCentredLoss
from modalities.video.components.motion_guidance import MotionGuidance
from modalities.video.components.motion_lora import MotionLora
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
DEBIASING = ("appearance_absorber", "appearance_debiased_loss")


class Arm(NamedTuple):
    """What an arm leaves out of the recipe, puts into it, and what else its LoRA learns in."""

    without: tuple[str, ...] = DEBIASING
    more: tuple[type[Component], ...] = ()
    layers: str = ""


# The base learns nothing.
ARMS: dict[str, Arm | None] = {
    "base": None,
    "LoRA of all layers": Arm(layers="+spatial"),
    "LoRA of temporal layers": Arm(),
    "frame-centred LoRA": Arm(more=(FrameCentredLoss,)),
    "MotionDirector": Arm(without=()),
}
# Whether drawings are guided by the motion, as strongly as the recipe says.
GUIDED = ("", ", guided")
# Guided by the motion as well, and by the prompt away from what the clip shows.
AWAY = "MotionDirector, guided away"
# What was asked for as it truly looks: the best that any arm can be.
RENDERED = "rendered"
ROWS = ("base", RENDERED, *[f"{arm}{guided}" for guided in GUIDED for arm in list(ARMS)[1:]], AWAY)
PAIRS = (
    *(("MotionDirector, guided", arm) for arm in ARMS),
    *((AWAY, arm) for arm in ("MotionDirector, guided", "LoRA of all layers", "LoRA of temporal layers")),
    *((f"MotionDirector{guided}", f"{arm}{guided}") for guided in GUIDED for arm in list(ARMS)[1:-1]),
    ("frame-centred LoRA", "LoRA of temporal layers"),
)
SEED = 7_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--steps", type=int, help="of learning a clip; other than the recipe's want another FOLDER")
    parser.add_argument("--motions", nargs="+", choices=MOTIONS, default=MOTIONS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for motion in asked.motions:
        _render(asked.folder, motion, asked.subjects)
        for arm in ARMS:
            _draw(asked.folder, motion, arm, asked.subjects, asked.steps)
    sys.stdout.write(motion_table.tables(asked.folder, tuple(asked.motions), ROWS, PAIRS, asked.subjects) + "\n")


def shown(motion: str) -> Clip:
    """The clip that a motion is learned from."""
    number = MOTIONS.index(motion)
    subject = Subject.random(SEED + number, SHOWN[number], held_out=True)
    scene = Scene.random(SEED + number, subject, CONTEXTS[number], held_out=True)
    return Clip.random(SEED + number, motion, scene)


def asked_for(motion: str, index: int) -> Clip:
    """What is then to be drawn: the motion of another subject in another place."""
    number = MOTIONS.index(motion)
    kinds = [kind for kind in ASKED if kind != SHOWN[number]]
    seed = SEED + 100 + 10 * number + index
    subject = Subject.random(seed, kinds[(number + index) % len(kinds)], held_out=True)
    scene = Scene.random(seed, subject, CONTEXTS[(number + 1 + index) % len(CONTEXTS)], held_out=True)
    return Clip.random(seed, motion, scene)


def without_motion(clip: Clip) -> str:
    """What a clip shows, without a word of how it moves: mini knows these motions by name, so only the clip tells."""
    return clip_prompt_of(clip).replace(f" {MOTION_PHRASES[clip.motion][0]}", "")


def _render(folder: Path, motion: str, subjects: int) -> None:
    """Write what is asked for as it truly looks."""
    for index in range(subjects):
        clip, path = asked_for(motion, index), motion_table.place(folder, motion, RENDERED, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, clip=render_clip(clip, 64).transpose(0, 3, 1, 2), prompt=without_motion(clip))


def _draw(folder: Path, motion: str, arm: str, subjects: int, steps: int | None) -> None:
    """Draw what is missing of one motion by one arm, guided by it and not."""
    rows = [row for row in ROWS if row == arm or (ARMS[arm] and row.startswith(f"{arm}, "))]
    places = {(index, row): motion_table.place(folder, motion, row, index) for index in range(subjects) for row in rows}
    missing = {key: path for key, path in places.items() if not path.is_file()}
    if not missing:
        return
    source = folder / f"{motion.replace(' ', '-')}.mp4"
    clip = shown(motion)
    if not source.is_file():
        save_clip(torch.from_numpy(render_clip(clip, 128)).permute(0, 3, 1, 2) / 255, source, 8)
    studio = _learned(source, clip, ARMS[arm], steps, Cache(folder / "cache"))
    guidance = next(part for part in studio.components if isinstance(part, MotionGuidance))
    led = guidance.scale, guidance.common
    away = studio.recipe.sample.model_copy(update={"negative_prompt": without_motion(clip)})
    for (index, row), path in missing.items():
        prompt = without_motion(asked_for(motion, index))
        guidance.scale, guidance.common = (0.0, 1.0) if row == arm else led
        made = clip_of_studio(studio, prompt, seed=0, index=index, sample=away if row == AWAY else None)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, clip=(made * 255).round().byte().numpy(), prompt=prompt)
        sys.stderr.write(f"{path}\n")


def _learned(source: Path, clip: Clip, arm: Arm | None, steps: int | None, cache: Cache) -> Studio:
    """The base after it has learned a clip; the base itself if there is no arm."""
    chosen = recipe.load("video/motiondirector")
    taken = arm or Arm()
    parts = [*(part for part in chosen.components if part.name not in taken.without), *(kind() for kind in taken.more)]
    for part in parts:
        if isinstance(part, MotionLora):
            part.layers += taken.layers
    learn = {part.name for part in parts}
    phases = [
        phase.model_copy(
            update={
                "learn": {name: rate for name, rate in phase.learn.items() if name in learn},
                "steps": steps or phase.steps,
            }
        )
        for phase in chosen.phases
    ]
    chosen = chosen.model_copy(update={"components": parts, "phases": phases})
    concept = with_clips(Concept("thing", "thing"), [source], [without_motion(clip)])
    chosen = narrowed(chosen, photos=False, clips=True)
    backbone = bases.load(bases.resolve(chosen.backbone), choose("cpu"), offline=True)
    studio = Studio(backbone, concept, chosen, training=True, cache=cache)
    trainer = VideoTrainer(studio)
    while arm and trainer.step < trainer.total:
        trainer.advance()
    studio.set_learning({})
    return studio


if __name__ == "__main__":
    main()
