"""DreamBooth3D (Raj et al., ICCV 2023): photos of a subject to a NeRF of it, in three stages.

https://arxiv.org/abs/2303.13508, section 3.2. The paper's stages are folders here, in order: a partial DreamBooth and a
first scene; a full DreamBooth and pseudo views that it redraws from renders of that scene; a multi-view DreamBooth that
goes on from the partial one, and the final scene. With the component `photo_registration` two more follow, not of the
paper: the photos with their cameras, and a scene that also looks like them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from modalities.core import media, personalize
from modalities.core import recipe as recipes
from modalities.core.artifact import Artifact, read_tensors
from modalities.core.concept import Concept
from modalities.core.errors import PcsError
from modalities.core.files import lock, require_writable, write_text
from modalities.core.kept_base import KeptBase
from modalities.core.machine import Machine
from modalities.core.progress import Progress
from modalities.core.recipe import Recipe
from modalities.core.studio import Studio
from modalities.three_d.components.dreambooth import Dreambooth
from modalities.three_d.components.photo_registration import PhotoRegistration
from modalities.three_d.components.reconstruction import Reconstruction
from modalities.three_d.components.view_prompts import SECTORS, ViewPrompts
from modalities.three_d.part import part_of, scene_of
from modalities.three_d.partial import PartialSession
from modalities.three_d.pseudo_views import PseudoViews
from modalities.three_d.redraw import redrawn_views
from modalities.three_d.registration import cut_out, register
from modalities.three_d.session import open_scene, optimize, plan
from modalities.three_d.shape import mirror_of
from modalities.three_d.stages import Stage, digest, run_stages

STAGES = ("01_partial", "02_scene", "03_full", "04_pseudo", "05_multiview", "06_scene")
# How often the partial DreamBooth is asked for the views that it must tell apart.
LOOKS = 6
SHAPE = "<shape>"
# Cells a side by which a scene is compared with its mirror image.
MIRROR_CELLS = 48
ALIKE = {"x": "left and right", "z": "front and back"}
# The stages that `photo_registration` adds, and what finding a camera costs beside drawing a picture.
REGISTERING = ("registered", "scene")
IMAGES_PER_PHOTO = 4


@dataclass(frozen=True)
class DreamBooth3D:
    """One run of all stages.

    Args:
        recipe: of modality three_d, with the component `dreambooth`.
        concept: the subject with its photos.
        folder: the run folder; each stage is a folder in it.
        machine: where to compute.
        progress: told where the work stands.
    """

    recipe: Recipe
    concept: Concept
    folder: Path
    machine: Machine
    progress: Progress

    @property
    def settings(self) -> Dreambooth:
        """The recipe's component `dreambooth`."""
        return part_of(self.recipe, Dreambooth)

    def run(self, *, resume: bool = False) -> list[dict[str, Any]]:
        """Do all stages that are not done; return their notes.

        Raises:
            PcsError: the folder holds another run, or a finished stage was changed.
            RunFailed: a stage could not go on; what is done is kept.
            Interrupted: stopped by a signal; what is done is kept.
        """
        told = self.folder / "recipe.yaml"
        if told.is_file() and not resume:
            raise PcsError(
                f"{self.folder}: already holds a run; add --resume to go on with it, or choose another --out."
            )
        # All stages share one base, on which each puts its own adapter.
        stages = replace(self, machine=replace(self.machine, kept=KeptBase())).stages()
        require_writable(self.folder, megabytes=60)
        with lock(self.folder):
            if not told.is_file():
                write_text(told, self.recipe.dump())
            return run_stages(self.folder, stages, self._begin)

    @property
    def names(self) -> list[str]:
        """The folders of all stages, in order."""
        names = list(STAGES if self.settings.full else STAGES[:2])
        if self._is_held_to_photos:
            names += [f"{len(names) + 1 + n:02}_{name}" for n, name in enumerate(REGISTERING)]
        return names

    @property
    def _is_held_to_photos(self) -> bool:
        return any(isinstance(part, PhotoRegistration) for part in self.recipe.components)

    def plan(self) -> dict[str, tuple[int, float]]:
        """Try two steps of a DreamBooth and of a scene; for each stage how many steps, and about how many seconds."""
        settings = self.settings
        learned = personalize.plan(self._image_recipe(settings.partial), self.concept, self.machine, self.progress)
        alone = scene_recipe(self.recipe)
        scene = plan(alone, self._words(False), self.machine, progress=self.progress)
        per_step, per_image = learned.seconds / settings.partial, learned.seconds_per_image
        told = {
            "partial": (settings.partial, per_step),
            "scene": (scene.steps, scene.seconds / scene.steps),
            "full": (settings.full, per_step),
            "pseudo": (settings.views, per_image),
            "multiview": (settings.multiview, per_step),
            "registered": (len(self.concept.photos), IMAGES_PER_PHOTO * per_image),
        }
        return {name: (told[name[3:]][0], told[name[3:]][0] * told[name[3:]][1]) for name in self.names}

    def stages(self) -> list[Stage]:
        """All stages with their inputs and their work."""
        base = digest(self.recipe.dump(), self.concept.digest)
        weights = {name: self._weights(name) for name in self.names}
        works: list[tuple[Callable[[Path], dict[str, Any]], Callable[[], str]]] = [
            (self._partial, lambda: base),
            (self._scene(STAGES[0], None), lambda: digest(base, weights[STAGES[0]]())),
        ]
        if self.settings.full:
            learned, pseudo = STAGES[4], STAGES[3]
            works += [
                (self._learn(self.settings.full), lambda: base),
                (self._pseudo, lambda: digest(base, weights[STAGES[1]](), weights[STAGES[2]]())),
                (self._multiview, lambda: digest(base, weights[STAGES[0]](), self._views(pseudo).digest)),
                (self._scene(learned, pseudo), lambda: digest(base, weights[learned](), self._views(pseudo).digest)),
            ]
        if self._is_held_to_photos:
            part_of(self.recipe, Reconstruction)
            # A mistake in what it changes is told before the first stage.
            _held_to_photos(self.recipe, len(self.concept.photos))
            knows, seen, photos, _ = self.names[-4:]
            works += [
                (self._registered(knows, seen), lambda: digest(base, weights[knows](), weights[seen]())),
                (self._scene(knows, photos, seen), lambda: digest(base, weights[knows](), self._views(photos).digest)),
            ]
        return [
            Stage(name, inputs, work, self._files, may_shrink=name.endswith(("pseudo", "registered")))
            for name, (work, inputs) in zip(self.names, works, strict=True)
        ]

    # -- the works -------------------------------------------------------------------------------------------

    def _partial(self, place: Path) -> dict[str, Any]:
        """Stop while the words for views still make a difference."""
        settings = self.settings
        if not settings.keep_views:
            return self._learn(settings.partial)(place)
        words = part_of(self.recipe, ViewPrompts).words
        said = self.concept.prompt(self.recipe.data.prompts[0])
        views = partial(PartialSession, keep=settings.keep_views, prompts=[said + words[name] for name in SECTORS])
        recipe = self._image_recipe(settings.partial, every=max(1, settings.partial // LOOKS))
        return self._personalized(place, recipe, self.concept, views)

    def _learn(self, steps: int) -> Callable[[Path], dict[str, Any]]:
        def work(place: Path) -> dict[str, Any]:
            return self._personalized(place, self._image_recipe(steps), self.concept)

        return work

    def _scene(self, prior: str, pseudo: str | None, first: str | None = None) -> Callable[[Path], dict[str, Any]]:
        """Distil a scene from the DreamBooth `prior`, held to `pseudo`, and as symmetric as the scene `first`."""

        def work(place: Path) -> dict[str, Any]:
            views = self._views(pseudo) if pseudo else None
            mirror = self._mirror(first) if first else None
            if mirror:
                self.progress.note(f"its shape is held symmetric: {ALIKE[mirror]} are alike")
            run = optimize(
                scene_recipe(self.recipe, views, mirror),
                self._words(with_shape=prior != STAGES[0]),
                place,
                self.machine,
                prior=Artifact.open(self.folder / prior),
                pseudo=views,
                resume=True,
                progress=self.progress,
            )
            return {"steps": run.about()["steps"]} | ({"mirror": mirror} if first else {})

        return work

    def _mirror(self, first: str) -> str | None:
        scene = open_scene(Artifact.open(self.folder / first), self.machine)
        return mirror_of(scene_of(scene).solid(MIRROR_CELLS), part_of(self.recipe, PhotoRegistration).symmetry)

    def _pseudo(self, place: Path) -> dict[str, Any]:
        """What the full DreamBooth makes of the first scene."""
        scene = open_scene(Artifact.open(self.folder / STAGES[1]), self.machine)
        prior = Artifact.open(self.folder / STAGES[2]).studio(self.machine)
        prompts = [self.concept.prompt(template) for template in self.recipe.data.prompts]
        views = redrawn_views(scene, prior, self.recipe, prompts, self.progress)
        views.write(place)
        return {"views": len(views.views)}

    def _registered(self, learned: str, seen: str) -> Callable[[Path], dict[str, Any]]:
        """Cut the subject out of its photos and find from where the scene `seen` looks like them."""

        def work(place: Path) -> dict[str, Any]:
            settings = part_of(self.recipe, PhotoRegistration)
            scene = open_scene(Artifact.open(self.folder / seen), self.machine)
            # The base as it was: attention of one that learned the subject may spread over a whole photo.
            cutouts = cut_out(scene, self.concept, settings.masks, self.progress)
            prior = Artifact.open(self.folder / learned).studio(self.machine)
            prompt = self._words(with_shape=learned != STAGES[0]).prompt("a photo of a {}")
            views = register(scene, prior, cutouts, prompt, as_far=settings.as_far)
            views.write(place)
            return {"views": len(views.views)}

        return work

    def _multiview(self, place: Path) -> dict[str, Any]:
        """Go on from the partial DreamBooth, on photos and pseudo views together."""
        images = [media.read_photo(path) for path in self._files(self.folder / STAGES[3]) if path.suffix == ".png"]
        concept = replace(self._words(), photos=(*self.concept.photos, *images))
        recipe = self._image_recipe(self.settings.multiview)
        if self.settings.geometry:
            recipe = self._with_shape(recipe)
        opened = partial(self._going_on, Artifact.open(self.folder / STAGES[0]), recipe, concept)
        return self._personalized(place, recipe, concept, opened=opened)

    @contextmanager
    def _going_on(self, first: Artifact, recipe: Recipe, concept: Concept) -> Generator[Studio]:
        """A studio that begins with what `first` learned."""
        self.progress.start(f"loading {recipe.backbone}", 0)
        backbone, cache = self.machine.backbone(recipe.backbone, recipe.modality), self.machine.cache
        studio = Studio(backbone, concept, recipe, training=True, cache=cache, progress=self.progress)
        studio.load(studio.weights() | first.weights())
        yield studio

    def _with_shape(self, recipe: Recipe) -> Recipe:
        """`recipe` with a second word, which learns alone."""
        changes = {
            "components": {"geometric_token": {"vectors": self.settings.geometry}},
            "data": {"subject": f"{recipe.data.subject} {SHAPE}"},
            "phases": [{"learn": {"geometric_token": recipe.train.learning_rate}, "steps": recipe.train.steps}],
        }
        return recipes.parse(recipe.dump(), "the multi-view recipe", changes)

    # -- what they share -------------------------------------------------------------------------------------

    def _personalized(
        self,
        place: Path,
        recipe: Recipe,
        concept: Concept,
        session: Callable[..., PartialSession] | None = None,
        opened: Callable[[], AbstractContextManager[Studio]] | None = None,
    ) -> dict[str, Any]:
        more: dict[str, Any] = {"session": session, "opened": opened}
        run = personalize.personalize(recipe, concept, place, self.machine, resume=True, progress=self.progress, **more)
        kept = run.about()["kept"]
        return {"steps": run.about()["kept_step"], "subject": kept["subject"], "drift": kept["drift"]}

    def _image_recipe(self, steps: int, every: int | None = None) -> Recipe:
        """The image recipe at that length; it keeps its last step, because the stages decide when to stop."""
        changes: dict[str, Any] = {
            "components": self.settings.components,
            "train": {"steps": steps},
            "validation": {"every": every or steps, "images": 1, "select": "last", "patience": None},
        }
        chosen = recipes.load(self.settings.recipe, changes, backbone=self.recipe.backbone)
        if chosen.phases:
            raise PcsError(
                f"components.dreambooth.recipe: {self.settings.recipe} has phases; take one with train.steps."
            )
        return chosen

    def _words(self, with_shape: bool = True) -> Concept:
        """The subject without its photos, by its word and, if there is one, by the word for its shape."""
        shape = f" {SHAPE}" if with_shape and self.settings.geometry else ""
        return Concept(self.concept.noun, f"{self.concept.phrase}{shape}")

    def _views(self, name: str) -> PseudoViews:
        return PseudoViews.read(self.folder / name)

    def _weights(self, name: str) -> Callable[[], str]:
        def digested() -> str:
            tensors = read_tensors(self.folder / name / "weights.safetensors")[0]
            return digest(*(value.numpy().tobytes().hex() for _, value in sorted(tensors.items())))

        return digested

    @staticmethod
    def _files(place: Path) -> list[Path]:
        """What later stages read of a stage."""
        listing = place / "transforms.json"
        if listing.is_file():
            return [listing, *sorted((place / "images").glob("*.png"))]
        return [place / "weights.safetensors", place / "recipe.yaml"]

    def _begin(self, stage: Stage) -> None:
        self.progress.note(f"stage {int(stage.name[:2])} of {len(self.names)}: {stage.name[3:]}")


def last_scene(folder: Path) -> Path:
    """Where the scene lies that a run of stages ended with; the folder itself if it has no stages."""
    stages = [done.parent for done in sorted(folder.glob("??_scene/done.json"))]
    return stages[-1] if stages else folder


def prior_of(scene: Path) -> Path:
    """The stage whose DreamBooth the stage `scene` was distilled from."""
    learned = [scene.parent / name for name in (STAGES[0], STAGES[4]) if name < scene.name]
    return [place for place in learned if place.is_dir()][-1]


def scene_recipe(recipe: Recipe, views: PseudoViews | None = None, mirror: str | None = None) -> Recipe:
    """The part of `recipe` that optimizes a scene, alone or with the reconstruction of `views`.

    Where these are photos, the shape is its own mirror image along `mirror`.
    """
    left_out = (Dreambooth,) if views else (Dreambooth, Reconstruction)
    kept = [part for part in recipe.components if not isinstance(part, left_out)]
    alone = recipe.model_copy(update={"components": kept})
    # Whole pictures are pseudo views, whose cameras are known.
    return alone if views is None or views.alphas is None else _held_to_photos(alone, len(views.places), mirror)


def _held_to_photos(recipe: Recipe, photos: int, mirror: str | None = None) -> Recipe:
    """`recipe` as `photo_registration` changes it for the second scene."""
    registration = part_of(recipe, PhotoRegistration)
    changes = registration.components | {registration.name: {"photos": photos}}
    if mirror:
        changes["nerf"] = {"mirror": mirror} | changes.get("nerf", {})
    return recipes.parse(recipe.dump(), "the second scene", {"components": changes})


def subject_of(recipe: Recipe) -> str:
    """The phrase by which the image recipe of `recipe` calls the subject."""
    return recipes.load(part_of(recipe, Dreambooth).recipe, None, backbone=recipe.backbone).data.subject
