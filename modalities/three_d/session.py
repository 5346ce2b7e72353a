"""Optimizes a scene into a run folder that can be stopped at any instant and goes on with the same bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modalities.core import bases, media
from modalities.core.artifact import Artifact, read_tensors, write_tensors
from modalities.core.concept import Concept
from modalities.core.device import peak_memory_mb
from modalities.core.errors import Interrupted, PcsError, RunFailed
from modalities.core.files import lock, require_writable, write_text
from modalities.core.machine import Machine
from modalities.core.progress import Progress, stop_on_signals
from modalities.core.recipe import Recipe
from modalities.core.report import grid
from modalities.core.studio import Studio
from modalities.core.trainer import Diverged
from modalities.three_d.cameras import turntable
from modalities.three_d.pseudo_views import PseudoViews
from modalities.three_d.trainer import SceneTrainer

CHECKPOINT_SECONDS = 30.0
LOOKS, PREVIEWS, PREVIEW_SIDE = 5, 8, 64


@dataclass(frozen=True)
class ScenePlan:
    """What a scene will take, from two trial steps: device in words, steps, numbers learned, seconds."""

    device: str
    steps: int
    learned: int
    seconds: float


def optimize(
    recipe: Recipe,
    concept: Concept,
    folder: Path,
    machine: Machine,
    *,
    prior: Artifact | None = None,
    pseudo: PseudoViews | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    announce: Callable[[ScenePlan], None] | None = None,
) -> Artifact:
    """Let a scene become what the base, or a run that learned a subject, sees in it.

    Args:
        recipe: of modality three_d, checked and resolved.
        concept: the words of what is shown.
        folder: the run folder; must be new, or be resumed.
        machine: where to compute.
        prior: a finished run of `pcs train image`; None is the bare base.
        pseudo: views from known cameras that the scene should also reproduce.
        resume: go on with the run in `folder`; begins it when there is none.
        progress: told where the work stands.
        announce: called with the plan before the first step.

    Raises:
        PcsError: something is wrong with what was given; nothing was started.
        RunFailed: the loss is no number any more, or the disk is full.
        Interrupted: stopped by a signal; the state is saved.
    """
    run = Artifact(folder)
    if run.exists() and not resume:
        raise PcsError(f"{folder}: already holds a run; add --resume to go on with it, or choose another --out.")
    require_writable(folder, megabytes=20)
    with lock(folder):
        if run.exists() and run.about()["state"] == "finished":
            run.require_same(recipe, concept, run.about()["base_fingerprint"])
            return run
        with prior_in_place(prior, recipe, concept, machine, progress) as studio:
            if run.exists():
                run.require_same(recipe, concept, studio.backbone.fingerprint)
            trainer = SceneTrainer(studio, pseudo)
            if announce:
                announce(_plan(trainer, machine))
            if not run.exists():
                run.begin(recipe, concept, studio.backbone.fingerprint)
            _Session(run, trainer).train()
    return run


class prior_in_place:
    """A studio for the scene over the bare base or over what a run learned, which is folded in inside the block."""

    def __init__(
        self, prior: Artifact | None, recipe: Recipe, concept: Concept, machine: Machine, progress: Progress | None
    ) -> None:
        if progress:
            progress.start(f"loading {recipe.backbone}", 0)
        self._learned = prior.studio(machine) if prior else None
        backbone = (
            self._learned.backbone
            if self._learned
            else bases.load(bases.resolve(recipe.backbone), machine.device, offline=machine.offline)
        )
        self._studio = Studio(backbone, concept, recipe, training=True, cache=machine.cache, progress=progress)
        self._folded: Any = self._learned.sampling() if self._learned else nullcontext()

    def __enter__(self) -> Studio:
        self._folded.__enter__()
        return self._studio

    def __exit__(self, *error: object) -> None:
        self._folded.__exit__(*error)


def open_scene(run: Artifact, machine: Machine) -> Studio:
    """A finished scene with its base, ready to be drawn."""
    recipe = run.recipe()
    backbone = bases.load(bases.resolve(recipe.backbone), machine.device, offline=machine.offline)
    studio = Studio(backbone, run.concept(), recipe, training=False, cache=machine.cache)
    studio.load(run.weights())
    return studio


def _plan(trainer: SceneTrainer, machine: Machine) -> ScenePlan:
    seconds = trainer.seconds_per_step()
    device = machine.device
    return ScenePlan(
        device=f"{device.title}, threads: {torch.get_num_threads()}, {device.memory_gb:.1f} GB free",
        steps=trainer.total,
        learned=sum(value.numel() for value in trainer.studio.weights().values()),
        seconds=seconds * trainer.total,
    )


class _Session:
    """Takes the steps, looks five times, saves; what it leaves is a function of the recipe and the prior alone."""

    def __init__(self, run: Artifact, trainer: SceneTrainer) -> None:
        self.run = run
        self.trainer = trainer
        self.progress = trainer.studio.progress
        self.lines: list[dict[str, Any]] = []
        self._saved_at = self._started = time.monotonic()

    def train(self) -> None:
        """Run to the end, from wherever the run folder stands."""
        trainer = self.trainer
        self._restore()
        self.progress.start("the scene", trainer.total, done=trainer.step)
        with stop_on_signals() as stop:
            while trainer.step < trainer.total:
                self._advance()
                if trainer.step % max(1, trainer.total // LOOKS) == 0:
                    self._look()
                if stop or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
                    self._save()
                if stop:
                    where = f"stopped at step {trainer.step} of {trainer.total}"
                    raise Interrupted(f"{self.run.folder}: {where}; its state is saved.")
        self._finish()

    def _advance(self) -> None:
        try:
            loss = self.trainer.advance()
        except Diverged as why:
            raise RunFailed(
                f"{self.run.folder}: {why} at step {self.trainer.step + 1}. "
                "Lower the learning rate and train into another --out."
            ) from None
        self.lines.append({"step": self.trainer.step, "training_loss": loss})
        self.progress.advance(loss=loss)

    def _look(self) -> None:
        with torch.no_grad():
            seen = self.trainer.nerf.draw(turntable(PREVIEWS), PREVIEW_SIDE)
        media.save_png(
            grid([media.to_image(one) for one in seen.colours], columns=PREVIEWS),
            self.run.samples / f"step-{self.trainer.step:06}.png",
        )

    def _save(self) -> None:
        write_text(self.run.metrics_file, "".join(json.dumps(line) + "\n" for line in self.lines))
        about = {"step": str(self.trainer.step), "balance": repr(self.trainer.balance)}
        write_tensors(self.run.checkpoint_file, self.trainer.state(), about)
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        if not self.run.checkpoint_file.is_file():
            return
        tensors, about = read_tensors(self.run.checkpoint_file)
        step = int(about["step"])
        self.lines = [line for line in self.run.metrics() if line["step"] <= step]
        self.trainer.restore(step, tensors)
        self.trainer.balance = None if about["balance"] == "None" else float(about["balance"])
        self.progress.note(f"resumed at step {step}")

    def _finish(self) -> None:
        self._save()
        write_tensors(self.run.weights_file, self.trainer.studio.weights(), {"step": str(self.trainer.step)})
        seconds = round(time.monotonic() - self._started, 1)
        about = self.run.about() | {
            "state": "finished",
            "steps": self.trainer.step,
            "seconds": seconds,
            "peak_memory_mb": round(peak_memory_mb(self.trainer.studio.backbone.device.type)),
        }
        self.run.write_about(about)
        self.run.checkpoint_file.unlink(missing_ok=True)
