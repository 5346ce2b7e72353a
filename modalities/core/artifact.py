"""A run on disk: one folder that can be stopped at any instant, resumed, moved, and opened by other tools."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalities.core import media
from modalities.core import recipe as recipes
from modalities.core.concept import Concept
from modalities.core.errors import PcsError
from modalities.core.files import LOCK, fingerprint, read_record, replacing, write_json, write_text
from modalities.core.media import Photo
from modalities.core.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.machine import Machine
    from modalities.core.progress import Progress
    from modalities.core.studio import Studio

FORMAT = 1


@dataclass(frozen=True)
class Artifact:
    """A run folder.

    `recipe.yaml` (fully resolved), `run.json` (what it is made of and how it ended), `weights.safetensors` (what was
    learned, float32), `metrics.jsonl` (a line for every step), `samples/`, `contact-sheet.png`, `report.html`, and
    `portable/` (the same weights in the formats of other tools). While it runs also `checkpoint.safetensors`.
    """

    folder: Path

    @property
    def recipe_file(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def weights_file(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def checkpoint_file(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def portable(self) -> Path:
        return self.folder / "portable"

    @property
    def contact_sheet(self) -> Path:
        return self.folder / "contact-sheet.png"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    # -- reading ---------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path) -> Artifact:
        """Open a run that can generate.

        Raises:
            PcsError: the folder is no run, or holds no weights yet.
        """
        run = cls(folder)
        if not folder.is_dir():
            raise PcsError(f"{folder}: there is no such run folder.")
        if not run.exists():
            raise PcsError(f"{folder}: is not a run folder (no run.json); give one that `pcs train` made.")
        if not run.weights_file.is_file():
            raise PcsError(f"{folder}: holds no weights yet; go on with `pcs train … --out {folder} --resume`.")
        return run

    def exists(self) -> bool:
        """Whether a run was begun in the folder."""
        return (self.folder / "run.json").is_file()

    def about(self) -> dict[str, Any]:
        """What `run.json` says.

        Raises:
            PcsError: it cannot be read, or a newer pcs wrote it.
        """
        return read_record(self.folder / "run.json", FORMAT)

    def recipe(self, changes: dict[str, Any] | None = None) -> Recipe:
        """The resolved recipe of the run, with `changes` of what works while generating."""
        try:
            text = self.recipe_file.read_text(encoding="utf-8")
        except OSError as error:
            raise PcsError(f"{self.recipe_file}: cannot be read ({error.strerror}).") from error
        return recipes.parse_to_draw(text, str(self.recipe_file), changes)

    def concept(self) -> Concept:
        """The subjects' words; the photos stay with their owner."""
        return Concept.together([Concept(one["noun"], one["phrase"]) for one in self.subjects()])

    def subjects(self) -> list[dict[str, Any]]:
        """Of every subject its `noun`, its `phrase`, and its `photos` by digest."""
        about = self.about()
        return [about, *about.get("others", [])]

    def photos(self) -> list[tuple[Photo, ...]]:
        """Of every subject the photos that the run learned from, as far as they are there and what they were."""
        return [_still_there(one["photos"]) for one in self.subjects()]

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        if not self.metrics_file.is_file():
            return []
        return [json.loads(line) for line in self.metrics_file.read_text(encoding="utf-8").splitlines()]

    def weights(self) -> dict[str, Tensor]:
        """What was learned, `component.name` -> float32 tensor.

        Raises:
            PcsError: the file is damaged.
        """
        return read_tensors(self.weights_file)[0]

    def studio(
        self, machine: Machine, progress: Progress | None = None, changes: dict[str, Any] | None = None
    ) -> Studio:
        """Load the base, put the components in place, and give them what they learned.

        changes: of the recipe, for this time only.

        Raises:
            PcsError: the base is not there or is another one than the run was trained on.
        """
        from modalities.core.studio import Studio

        recipe, weights, about = self.recipe(changes), self.weights(), self.about()
        backbone = machine.backbone(recipe.backbone, recipe.modality)
        if backbone.fingerprint != about["base_fingerprint"]:
            raise PcsError(
                f"{self.folder}: was trained on another edition of the base {recipe.backbone}; train it again."
            )
        studio = Studio(backbone, self.concept(), recipe, training=False, cache=machine.cache, progress=progress)
        studio.load(weights)
        return studio

    # -- writing ---------------------------------------------------------------------------------------------

    def require_free(self, concept: Concept) -> None:
        """Check that a run that begins in the folder overwrites nothing of somebody else's.

        Raises:
            PcsError: the photos lie in it, or files of a run's names.
        """
        if any(photo.path.resolve().parent == self.folder.resolve() for photo in concept.all_photos):
            raise PcsError(f"{self.folder}: is the folder of the photos, which stays as it is; choose another --out.")
        # A run that was stopped before its first step has left its lock.
        if self.exists() or (self.folder / LOCK).is_file():
            return
        own = (self.recipe_file, self.weights_file, self.checkpoint_file, self.metrics_file)
        for path in (*own, self.folder / "report.html", self.folder / "contact-sheet.png"):
            if path.exists():
                raise PcsError(f"{path}: is there already and is of no run; choose another --out.")

    def begin(self, recipe: Recipe, concept: Concept, base_fingerprint: str) -> None:
        """Write what the run is made of, before its first step; leftovers of a run that never began go."""
        for leftover in (self.checkpoint_file, self.weights_file, self.metrics_file):
            leftover.unlink(missing_ok=True)
        write_text(self.recipe_file, recipe.dump())
        self.write_about(
            {
                "format": FORMAT,
                "state": "training",
                **_told(concept),
                "others": [_told(one) for one in concept.others],
                "concept_digest": concept.digest,
                "read": _read(recipe, concept),
                "base_fingerprint": base_fingerprint,
                "versions": versions(),
            }
        )

    def write_about(self, about: dict[str, Any]) -> None:
        """Replace `run.json`."""
        write_json(self.folder / "run.json", about)

    def require_same(self, recipe: Recipe, concept: Concept, base_fingerprint: str) -> None:
        """Check that a run to be resumed is still the same work.

        Raises:
            PcsError: recipe, photos, captions, masks or base have changed; names what.
        """
        before, now = self.recipe().model_dump(mode="json"), recipe.model_dump(mode="json")
        changed = [key for key in now if before.get(key) != now[key]]
        if self.recipe().dump() != recipe.dump():
            what = ", ".join(changed) or "components"
            raise PcsError(f"{self.folder}: cannot resume, the recipe has changed ({what}); choose another --out.")
        if self.about()["concept_digest"] != concept.digest:
            before = {path: digest for one in self.subjects() for path, digest in one["photos"].items()}
            raise PcsError(f"{self.folder}: cannot resume, {_photo_change(before, concept)}; choose another --out.")
        files = _read(recipe, concept)
        if other := sorted({path for path, _ in self.about().get("read", files).items() ^ files.items()}):
            have = "has" if len(other) == 1 else "have"
            raise PcsError(f"{self.folder}: cannot resume, {', '.join(other)} {have} changed; choose another --out.")
        if self.about()["base_fingerprint"] != base_fingerprint:
            raise PcsError(f"{self.folder}: cannot resume, the base has changed; choose another --out.")


def _still_there(photos: dict[str, str]) -> tuple[Photo, ...]:
    found: list[Photo] = []
    for name, digest in photos.items():
        try:
            photo = media.read_photo(Path(name))
        except media.Unusable:
            continue
        if photo.digest == digest:
            found.append(photo)
    return tuple(found)


def _told(concept: Concept) -> dict[str, Any]:
    photos = {str(photo.path.resolve()): photo.digest for photo in concept.photos}
    return {"noun": concept.noun, "phrase": concept.phrase, "photos": photos}


def _read(recipe: Recipe, concept: Concept) -> dict[str, str]:
    """Hashes of captions, masks and whatever else the components read beside the photos."""
    return {str(path.resolve()): fingerprint(path) for part in recipe.components for path in part.reads(concept)}


def _photo_change(before: dict[str, str], concept: Concept) -> str:
    now = {str(photo.path.resolve()): photo.digest for photo in concept.all_photos}
    if set(now.values()) == set(before.values()):
        return "the noun or the subject's words have changed"
    gone = sorted(Path(path).name for path, digest in before.items() if digest not in now.values())
    new = sorted(Path(path).name for path, digest in now.items() if digest not in before.values())
    parts = [f"{', '.join(names)} {word}" for names, word in ((gone, "gone or changed"), (new, "new")) if names]
    return f"the photos have changed ({'; '.join(parts)})"


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically; `about` becomes its metadata."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=about)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and its metadata.

    Raises:
        PcsError: it is damaged or missing.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise PcsError(f"{path}: is damaged or missing ({error}).") from error


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    packages = ("pcs-cli", "torch", "diffusers", "transformers", "peft")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
