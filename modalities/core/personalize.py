"""The main verb: everything that a recipe's components learn, on the photos of a concept, into a run folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modalities.core import media
from modalities.core.artifact import Artifact, read_tensors, write_tensors
from modalities.core.concept import Concept
from modalities.core.device import peak_memory_mb
from modalities.core.errors import Interrupted, PcsError, RunFailed
from modalities.core.files import lock, require_writable, write_text
from modalities.core.machine import Machine
from modalities.core.portable import export
from modalities.core.progress import Progress, stop_on_signals
from modalities.core.recipe import Recipe
from modalities.core.report import FINAL_IMAGES, grid, write_report
from modalities.core.studio import Studio
from modalities.core.trainer import Diverged, Trainer
from modalities.core.validation import Look, Validation

CHECKPOINT_SECONDS = 30.0
SAME_BALANCE = 0.05
COARSE = (
    "the embedded encoders see too few pixels to judge this base: the last step is kept, and the scores mean little. "
    "Set PCS_SUBJECT_ENCODER (e.g. facebook/dinov2-small) and PCS_CLIP (e.g. openai/clip-vit-base-patch32)."
)


def personalize(
    recipe: Recipe,
    concept: Concept,
    folder: Path,
    machine: Machine,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    announce: Callable[[Plan], None] | None = None,
    session: Callable[[Artifact, Studio, Machine], Session] | None = None,
    opened: Callable[[], AbstractContextManager[Studio]] | None = None,
) -> Artifact:
    """Learn a concept by a recipe; leave a run folder that generates.

    Args:
        recipe: checked and resolved.
        concept: with its photos.
        folder: the run folder; must be new, or be resumed.
        machine: where to compute and what to use.
        resume: go on with the run in `folder`; begins it when there is none.
        progress: told where the work stands.
        announce: called with the plan before the first step.
        session: how a modality trains, looks and finishes; None is for pictures.
        opened: gives the studio to work in; None is one over the recipe's base.

    Raises:
        PcsError: something is wrong with what was given; nothing was started.
        RunFailed: the loss is no number any more, or the disk is full; the last good state is kept.
        Interrupted: stopped by a signal; the state is saved.
    """
    run = Artifact(folder)
    if run.exists() and not resume:
        raise PcsError(f"{folder}: already holds a run; add --resume to go on with it, or choose another --out.")
    run.require_free(concept)
    require_writable(folder, megabytes=20)
    with lock(folder):
        if run.exists() and run.about()["state"] == "finished":
            run.require_same(recipe, concept, run.about()["base_fingerprint"])
            return run
        with (opened or partial(_base, recipe, concept, machine, progress))() as studio:
            if run.exists():
                run.require_same(recipe, concept, studio.backbone.fingerprint)
            if next(studio.parameters(), None) is None:
                raise PcsError(f'recipe "{recipe.title}" has no component that learns; add one, components.lora={{}}.')
            work = (session or Session)(run, studio, machine)
            made = work.plan()
            require_writable(folder, made.disk_mb)
            if announce:
                announce(made)
            work.prepare()
            if not run.exists():
                run.begin(recipe, concept, studio.backbone.fingerprint)
            work.train()
    return run


@dataclass(frozen=True)
class Plan:
    """What a run will take, from two trial steps on the real photos.

    Attributes:
        device: in words.
        steps: at most; a run may stop earlier.
        learned: how many numbers are learned.
        learners: the components that learn them.
        seconds: about how long the steps, the looks and the final pictures take.
        seconds_per_image: about how long one more picture takes.
        memory_mb: the most memory used so far, trial steps included, in 10^6 bytes.
        disk_mb: the most disk used at once, in 10^6 bytes.
    """

    device: str
    steps: int
    learned: int
    learners: tuple[str, ...]
    seconds: float
    seconds_per_image: float
    memory_mb: float
    disk_mb: float


def plan(
    recipe: Recipe,
    concept: Concept,
    machine: Machine,
    progress: Progress | None = None,
    session: Callable[[Artifact, Studio, Machine], Session] | None = None,
    opened: Callable[[], AbstractContextManager[Studio]] | None = None,
) -> Plan:
    """Load everything, try two steps, and say what the run would take; nothing is written but the cache."""
    with (opened or partial(_base, recipe, concept, machine, progress))() as studio:
        return (session or Session)(Artifact(Path()), studio, machine).plan()


@contextmanager
def _base(recipe: Recipe, concept: Concept, machine: Machine, progress: Progress | None) -> Generator[Studio]:
    """A studio over the recipe's base."""
    if progress:
        progress.start(f"loading {recipe.backbone}", 0)
    backbone = machine.backbone(recipe.backbone, recipe.modality)
    yield Studio(backbone, concept, recipe, training=True, cache=machine.cache, progress=progress)


class Session:
    """Trains into a run folder: looks, keeps the best, saves, stops. A modality may look and finish in its own way.

    What is kept and when it stops are functions of the metrics, and the metrics of the steps, so a run that was
    killed and resumed is bit for bit the run that was not.
    """

    validation: Validation

    def __init__(self, run: Artifact, studio: Studio, machine: Machine) -> None:
        self.run = run
        self.studio = studio
        self.machine = machine
        self.trainer = self.new_trainer()
        self.progress = studio.progress
        self.lines: list[dict[str, Any]] = []
        self.looks: list[Any] = []
        self._saved_at = time.monotonic()
        self._started = time.monotonic()

    def new_trainer(self) -> Trainer:
        """Who takes the steps."""
        return Trainer(self.studio)

    def previews(self) -> int:
        """How many pictures the whole run generates."""
        settings = self.studio.recipe.validation
        return len(settings.prompts) * (1 + self.looks_planned() * settings.images + FINAL_IMAGES)

    def looks_planned(self) -> int:
        """Looks at the work, the one before the first step included."""
        return 1 + math.ceil(self.trainer.total / self.studio.recipe.look_every())

    def plan(self) -> Plan:
        """Try two steps, and say what the run will take."""
        trial, device = self.new_trainer(), self.machine.device
        self.progress.start("trying a step", 0)
        per_step, per_image = trial.probe()
        learned = sum(value.numel() for value in self.studio.weights().values())
        return Plan(
            device=f"{device.title}, threads: {torch.get_num_threads()}, {device.memory_gb:.1f} GB free",
            steps=trial.total,
            learned=learned,
            learners=tuple(part.name for part in self.studio.components if self.studio.learned_by(part.name)),
            seconds=per_step * trial.total + per_image * self.previews(),
            seconds_per_image=per_image,
            memory_mb=peak_memory_mb(device.kind),
            # The checkpoint holds weights and two moments; kept weights and three portable layouts come beside it.
            disk_mb=20 + learned * 4 * (3 + 1 + 3) / 1e6,
        )

    def prepare(self) -> None:
        """Measure what must be measured before anything is learned."""
        self.validation = Validation(self.studio, *self.machine.encoders())

    def train(self) -> None:
        """Run to the end, from wherever the run folder stands."""
        trainer = self.trainer
        if self.studio.recipe.validation.settled is not None and not hasattr(self, "validation"):
            raise PcsError("validation.settled: can only stop what learns from photos; set it to null.")
        self._restore()
        self.progress.start("training", trainer.total, done=trainer.step)
        self._warn()
        with stop_on_signals() as stop:
            if not self.looks:
                self._look()
                self._save()
            while trainer.step < trainer.total and not self._should_stop_early() and not self._has_settled():
                self._advance()
                is_last = trainer.step == trainer.total or self._has_settled()
                if trainer.step % self.studio.recipe.look_every() == 0 or is_last:
                    self._look()
                if stop or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
                    self._save()
                if stop:
                    where = f"stopped at step {trainer.step} of {trainer.total}"
                    raise Interrupted(f"{self.run.folder}: {where}; its state is saved.")
        self._save()
        self._finish()

    def _warn(self) -> None:
        if not self.validation.can_judge:
            self.progress.warn(COARSE)

    def _advance(self) -> None:
        try:
            loss = self.trainer.advance()
        except Diverged as why:
            kept = self._kept()
            what = f"the weights of step {kept.step} are kept" if kept else "nothing is kept"
            raise RunFailed(
                f"{self.run.folder}: {why} at step {self.trainer.step + 1}; {what}. "
                "Lower the learning rate (--set train.learning_rate=…) and train into another --out."
            ) from None
        self.lines.append({"step": self.trainer.step, "training_loss": loss})
        if self.studio.recipe.validation.settled is not None:
            with self.studio.at_rest():
                self.lines[-1]["frozen_loss"] = self.validation.frozen_loss()
        self.progress.advance(loss=loss)

    # -- looking ---------------------------------------------------------------------------------------------

    def _look(self) -> None:
        with self.studio.at_rest():
            look, previews = self.validation.look(self.trainer.step)
        look = replace(look, best=look.step > 0 and self._is_best(look))
        self.looks.append(look)
        self.lines.append(look.line())
        sheet = grid(previews, columns=len(previews) // len(self.studio.recipe.validation.prompts))
        media.save_png(sheet, self.run.samples / f"step-{look.step:06}.png")
        if look.best:
            write_tensors(self.run.weights_file, self.studio.weights(), {"step": str(look.step)})
        scores = f"loss {look.loss:.4f}, subject {look.subject:.3f}, text {look.text:.3f}, drift {look.drift:.4f}"
        self.progress.note(f"step {look.step}: {scores}" + ("  <- kept" if look.best else ""))

    def _is_best(self, look: Look) -> bool:
        """Whether these weights are the ones to keep: of the last phase the best balance, or the newest.

        A few previews tell balances apart no better than `SAME_BALANCE`; within that the lower loss decides.
        """
        kept = self._kept()
        if self.validation.select == "last" or kept is None or kept.step <= self.trainer.last_phase_start:
            return True
        earlier = (past.balance for past in self.looks if past.step > self.trainer.last_phase_start)
        enough = max(look.balance, *earlier) - SAME_BALANCE
        return look.balance >= enough and (look.loss < kept.loss or kept.balance < enough)

    def _kept(self) -> Look | None:
        return next((look for look in reversed(self.looks) if look.best), None)

    def _should_stop_early(self) -> bool:
        patience = self.studio.recipe.validation.patience
        since = [look for look in self.looks if look.step > self.trainer.last_phase_start]
        if patience is None or self.validation.select == "last" or len(since) <= patience:
            return False
        return not any(look.best for look in since[-patience:])

    def _has_settled(self) -> bool:
        """Whether the loss on frozen items has stopped to change, in the last phase."""
        settings = self.studio.recipe.validation
        told = [line for line in self.lines if "frozen_loss" in line and line["step"] > self.trainer.last_phase_start]
        if settings.settled is None or len(told) < settings.window:
            return False
        losses = torch.tensor([line["frozen_loss"] for line in told], dtype=torch.float64)
        return bool(losses[-settings.window :].var() < settings.settled * losses.var())

    # -- the run folder --------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write metrics and checkpoint; a kill between the two loses nothing, the metrics are cut on resume."""
        write_text(self.run.metrics_file, "".join(json.dumps(line) + "\n" for line in self.lines))
        write_tensors(self.run.checkpoint_file, self.trainer.state(), {"step": str(self.trainer.step)})
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        """Go back to the last checkpoint, if there is one."""
        if not self.run.checkpoint_file.is_file():
            return
        tensors, about = read_tensors(self.run.checkpoint_file)
        step = int(about["step"])
        self.lines = [line for line in self.run.metrics() if line["step"] <= step]
        self.looks = self._looks_of(self.lines)
        self.trainer.restore(step, tensors)
        self.progress.note(f"resumed at step {step}")

    def _looks_of(self, lines: list[dict[str, Any]]) -> list[Any]:
        return [Look(**line) for line in lines if "balance" in line]

    def _finish(self) -> None:
        """Write what other tools read, the pictures and the report; then the checkpoint is no longer needed."""
        self.progress.start("writing pictures, report and portable files", 0)
        kept = self._kept()
        assert kept is not None
        self.studio.set_learning({})
        self.studio.load(read_tensors(self.run.weights_file)[0])
        portable = export(self.studio, self.run.portable)
        finals = self.validation.final(FINAL_IMAGES)
        about = self._about() | {"kept_step": kept.step, "kept": kept.line(), "portable": portable}
        write_report(self.run, self.studio, finals, about)
        self._close(about)

    def _about(self) -> dict[str, Any]:
        """What `run.json` says of a run whose work is done."""
        return self.run.about() | {
            "state": "finished",
            "steps": self.trainer.step,
            "seconds": round(time.monotonic() - self._started, 1),
            "peak_memory_mb": round(peak_memory_mb(self.studio.backbone.device.type)),
        }

    def _close(self, about: dict[str, Any]) -> None:
        self.run.write_about(about)
        self.run.checkpoint_file.unlink(missing_ok=True)
