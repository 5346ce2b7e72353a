"""Optimizes a scene into a run folder that can be stopped at any instant and goes on with the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from modalities.core import media, personalize
from modalities.core.artifact import Artifact, write_tensors
from modalities.core.concept import Concept
from modalities.core.errors import PcsError
from modalities.core.files import fingerprint
from modalities.core.machine import Machine
from modalities.core.personalize import Plan, Session
from modalities.core.progress import Progress
from modalities.core.recipe import Recipe
from modalities.core.report import grid
from modalities.core.studio import Studio
from modalities.three_d.pseudo_views import PseudoViews
from modalities.three_d.trainer import SceneTrainer

# What a scene asks of a base: renders are pictures.
PICTURES = "image"


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
    announce: Callable[[Plan], None] | None = None,
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
        PcsError, RunFailed, Interrupted: as `personalize`.
    """
    learned = fingerprint(prior.weights_file) if prior else None
    run = Artifact(folder)
    if run.exists() and run.about().get("prior", learned) != learned:
        raise PcsError(f"{folder}: cannot resume, it is the scene of another run's subject; choose another --out.")
    return personalize.personalize(
        recipe,
        concept,
        folder,
        machine,
        resume=resume,
        progress=progress,
        announce=announce,
        session=partial(SceneSession, pseudo=pseudo, learned=learned),
        opened=partial(prior_in_place, prior, recipe, concept, machine, progress),
    )


def plan(
    recipe: Recipe,
    concept: Concept,
    machine: Machine,
    prior: Artifact | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Try two steps of a scene, and say what it would take; nothing is written but the cache."""
    opened = partial(prior_in_place, prior, recipe, concept, machine, progress)
    return personalize.plan(recipe, concept, machine, session=SceneSession, opened=opened)


class prior_in_place:
    """A studio for the scene over the bare base or over what a run learned, which is folded in inside the block."""

    def __init__(
        self, prior: Artifact | None, recipe: Recipe, concept: Concept, machine: Machine, progress: Progress | None
    ) -> None:
        if progress:
            progress.start(f"loading {recipe.backbone}", 0)
        self._learned = prior.studio(machine) if prior else None
        backbone = self._learned.backbone if self._learned else machine.backbone(recipe.backbone, PICTURES)
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
    backbone = machine.backbone(recipe.backbone, PICTURES)
    studio = Studio(backbone, run.concept(), recipe, training=False, cache=machine.cache)
    studio.load(run.weights())
    return studio


class SceneSession(Session):
    """Optimizes a scene: looks at it from all around, and keeps the last step."""

    trainer: SceneTrainer

    def __init__(
        self,
        run: Artifact,
        studio: Studio,
        machine: Machine,
        pseudo: PseudoViews | None = None,
        learned: str | None = None,
    ) -> None:
        """Make ready to optimize the studio's scene, and to reproduce `pseudo` where the recipe asks for it.

        learned: the digest of what the base learned of the subject before, kept in run.json.
        """
        self._pseudo, self._learned = pseudo, learned
        super().__init__(run, studio, machine)

    def new_trainer(self) -> SceneTrainer:
        return SceneTrainer(self.studio, self._pseudo)

    def previews(self) -> int:
        return self.looks_planned()

    def prepare(self) -> None:
        """Nothing is measured beforehand."""

    def train(self) -> None:
        about = self.run.about()
        if "prior" not in about:
            self.run.write_about(about | {"prior": self._learned})
        super().train()

    def _warn(self) -> None:
        """The kept step is not chosen by encoders, so there is nothing to warn of."""

    def _look(self) -> None:
        path = self.run.samples / f"step-{self.trainer.step:06}.png"
        seen = [media.to_image(one) for one in self.trainer.preview()]
        media.save_png(grid(seen, columns=len(seen)), path)
        self.looks.append({"step": self.trainer.step, "turntable": path.name})
        self.lines.append(self.looks[-1])

    def _looks_of(self, lines: list[dict[str, Any]]) -> list[Any]:
        return [line for line in lines if "turntable" in line]

    def _kept(self) -> None:
        return None

    def _should_stop_early(self) -> bool:
        return False

    def _finish(self) -> None:
        write_tensors(self.run.weights_file, self.studio.weights(), {"step": str(self.trainer.step)})
        self._close(self._about())
