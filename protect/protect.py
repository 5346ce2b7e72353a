"""The verb: a folder of photos in, a folder of protected files out, each inside the budget, with a record of all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from modalities.core import media
from modalities.core.artifact import read_tensors, versions, write_tensors
from modalities.core.concept import Concept, phrase_of
from modalities.core.device import peak_memory_mb
from modalities.core.errors import Interrupted, PcsError, RunFailed
from modalities.core.files import fingerprint, lock, require_writable
from modalities.core.machine import Machine
from modalities.core.progress import Progress, Silent, stop_on_signals
from modalities.core.studio import Studio
from modalities.core.trainer import Diverged
from protect import objective, picture
from protect.cloak import Cloak
from protect.ensemble import Ensemble
from protect.folder import FORMAT, Entry, Folder, already_protected, look, read_record, write_record
from protect.recipe import Protection
from protect.saving import Saved, save
from protect.surrogate import Surrogate
from protect.visible import Perceptual

CHECKPOINT_SECONDS = 20.0
STATE = ".protect-state.safetensors"


@dataclass(frozen=True)
class Plan:
    """What the work will take, from trial steps on the first photos.

    Attributes:
        device: in words.
        photos: how many, in `groups` groups.
        pushes, trainings: steps of either kind for each group.
        seconds: about how long it takes.
        memory_mb: the most memory used so far, trial steps included, in 10^6 bytes.
        levels: the budget.
    """

    device: str
    photos: int
    groups: int
    pushes: int
    trainings: int
    seconds: float
    memory_mb: float
    levels: float


def protect(
    recipe: Protection,
    photos: Path,
    out: Path,
    machine: Machine,
    *,
    noun: str = "person",
    resume: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    announce: Callable[[Plan], None] | None = None,
) -> dict[str, Any]:
    """Protect every photo of a folder; return the record that is also `out/protect.json`.

    Args:
        recipe: checked.
        photos: the folder; it is only read.
        out: a new folder, or one to go on with.
        machine: where to compute.
        noun: what the photos show, in a word.
        resume: go on with the work in `out`.
        strict: refuse the whole folder when one of its pictures cannot be protected.
        progress: told where the work stands.
        announce: called with the plan before the first step.

    Raises:
        PcsError: something is wrong with what was given; nothing was started.
        RunFailed: a file came out over the budget, or the disk is full; the finished files stay.
        Interrupted: stopped by a signal; the state is saved.
    """
    progress = progress or Silent()
    objective.checked(recipe.objective, recipe.ascent)
    _require_ensemble(recipe)
    found = look(photos, out, recipe)
    _require_new(out, resume)
    if strict and found.skipped:
        name, reason = next(iter(found.skipped.items()))
        raise PcsError(f"{name}: {reason}; nothing was started, as --strict asks.")
    require_writable(out, megabytes=20 + 16 * sum(entry.pixels for entry in found.entries) / 1e6)
    _require_memory(recipe, found, machine)
    _warn(photos, found, progress)
    surrogates = _surrogates(recipe, found, noun, machine, progress)
    with lock(out):
        record = _record(recipe, found, noun, surrogates, out)
        if announce:
            announce(_plan(recipe, found, surrogates, machine, progress))
        _Work(recipe, found, surrogates, out, record, progress).run()
    return record


def plan(
    recipe: Protection,
    photos: Path,
    out: Path,
    machine: Machine,
    *,
    noun: str = "person",
    progress: Progress | None = None,
) -> Plan:
    """Load everything, try the first steps, and say what the work would take; nothing is written but the cache."""
    objective.checked(recipe.objective, recipe.ascent)
    _require_ensemble(recipe)
    found = look(photos, out, recipe)
    progress = progress or Silent()
    return _plan(recipe, found, _surrogates(recipe, found, noun, machine, progress), machine, progress)


def _require_ensemble(recipe: Protection) -> None:
    if recipe.count("agree") and not recipe.ensemble:
        raise PcsError(f"{recipe.title}: needs further bases than {recipe.backbone}; name them: --set ensemble=[sd15].")


def _warn(photos: Path, found: Folder, progress: Progress) -> None:
    for name in already_protected(photos, found.entries):
        progress.warn(f"{name} was protected before; changes are measured from it as it is.")
    for entry in found.entries:
        for remark in entry.remarks:
            progress.warn(f"{entry.name} {remark}.")
    if len(found.entries) == 1:
        progress.warn("only one photo: copiers who have others of the same subject are hardly kept from anything.")


def _memory_gb(recipe: Protection, found: Folder) -> float:
    """What the photos alone take, in 10^9 bytes: four copies of a group in float32, and ten of the largest photo."""
    groups = found.groups(recipe.together)
    group = max(sum(entry.pixels for entry in group) for group in groups)
    return 12 * (4 * group + 10 * max(entry.pixels for entry in found.entries)) / 1e9


def _require_memory(recipe: Protection, found: Folder, machine: Machine) -> None:
    needed = _memory_gb(recipe, found)
    if needed > machine.device.memory_gb:
        largest = max(found.entries, key=lambda entry: entry.pixels)
        raise PcsError(
            f"{largest.name}: has {largest.pixels / 1e6:.0f} megapixels, which take about {needed:.1f} GB of memory; "
            f"{machine.device.memory_gb:.1f} GB are free. Scale it down, or add --set together=1."
        )


def _require_new(out: Path, resume: bool) -> None:
    if resume or not out.is_dir() or not any(path.name != ".lock" for path in out.iterdir()):
        return
    how = "add --resume to go on with it" if read_record(out) else "its files are not touched"
    raise PcsError(f"{out}: is not empty; {how}, or choose another --out.")


def _surrogates(recipe: Protection, found: Folder, noun: str, machine: Machine, progress: Progress) -> list[Surrogate]:
    """One of the recipe's base, and one of every further base of its ensemble, each with draws of its own."""
    first = media.read_photo(found.entries[0].path)
    concept = Concept(noun, phrase_of(recipe.data.subject, noun), (first,))
    surrogates: list[Surrogate] = []
    for number, name in enumerate((recipe.backbone, *recipe.ensemble)):
        progress.start(f"loading {name}", 0)
        backbone = machine.backbone(name)
        train = recipe.train.model_copy(update={"seed": recipe.train.seed + number})
        own = recipe.model_copy(update={"backbone": name, "train": train})
        studio = Studio(backbone, concept, own, training=True, cache=machine.cache, progress=progress)
        surrogates.append(Surrogate(studio))
    return surrogates


def _record(recipe: Protection, found: Folder, noun: str, surrogates: list[Surrogate], out: Path) -> dict[str, Any]:
    """The record to begin with, or the one of the work that goes on.

    Raises:
        PcsError: it is of other work.
    """
    same = {
        "recipe": recipe.model_dump(mode="json")
        | {"components": {p.name: p.model_dump(mode="json") for p in recipe.components}},
        "noun": noun,
        "base_fingerprint": "+".join(surrogate.studio.backbone.fingerprint for surrogate in surrogates),
        "photos": {entry.name: entry.digest for entry in found.entries},
    }
    record = read_record(out)
    if record is None:
        return {"format": FORMAT, "state": "running", **same, "levels": recipe.budget.levels,
                "versions": versions(), "skipped": found.skipped, "files": {}}  # fmt: skip
    changed = [name for name, value in same.items() if record.get(name) != value]
    if changed:
        raise PcsError(f"{out}: cannot resume, the {changed[0].replace('_', ' ')} has changed; choose another --out.")
    return record


def _plan(recipe: Protection, found: Folder, surrogates: list[Surrogate], machine: Machine, progress: Progress) -> Plan:
    """Time one push and one training step, which leave no trace."""
    progress.start("trying a step", 0)
    groups = found.groups(recipe.together)
    cloak = _cloak(recipe, groups[0], surrogates)
    count = len(groups[0])
    rows = list(range(min(recipe.ascent.batch, count)))
    cloak.ask(rows, 0)
    started = time.monotonic()
    cloak.ask(rows, 0)
    per_push = (time.monotonic() - started) * math.ceil(count / len(rows)) * cloak.most_draws
    trainings = recipe.count("train", "joint")
    per_training = sum(surrogate.trainer.probe()[0] for surrogate in surrogates) if trainings else 0.0
    for surrogate in surrogates:
        surrogate.begin()
    pushes = recipe.count("perturb", "joint")
    return Plan(
        device=machine.device.title,
        photos=len(found.entries),
        groups=len(groups),
        pushes=pushes,
        trainings=trainings,
        seconds=len(found.entries) / count * per_push * pushes + len(groups) * per_training * trainings,
        memory_mb=max(peak_memory_mb(machine.device.kind), 1000 * _memory_gb(recipe, found)),
        levels=recipe.budget.levels,
    )


def _cloak(recipe: Protection, group: list[Entry], surrogates: list[Surrogate]) -> Ensemble:
    saved = [recipe.output.quality if entry.kind == "JPEG" else None for entry in group]
    photos = [picture.read(entry.path) for entry in group]
    # Each draws by its own seed.
    own = [recipe.model_copy(update={"train": surrogate.studio.recipe.train}) for surrogate in surrogates]
    return Ensemble([Cloak(photos, saved, *pair) for pair in zip(own, surrogates, strict=True)])


class _Work:
    """Protects group after group; a group's files are written when it is done, its state now and then before."""

    def __init__(
        self,
        recipe: Protection,
        found: Folder,
        surrogates: list[Surrogate],
        out: Path,
        record: dict[str, Any],
        progress: Progress,
    ) -> None:
        self.recipe = recipe
        self.found = found
        self.surrogates = surrogates
        self.out = out
        self.record = record
        self.progress = progress
        self._saved_at = time.monotonic()
        self._perceptual = Perceptual(surrogates[0].studio.backbone.device)
        record["lpips"] = self._perceptual.missing or "measured"

    def run(self) -> None:
        groups = self.found.groups(self.recipe.together)
        steps = len(self.recipe.acts())
        write_record(self.out, self.record)
        self.progress.start("protecting", steps * len(groups))
        with stop_on_signals() as stop:
            for number, group in enumerate(groups):
                if all(self._is_done(entry) for entry in group):
                    self.progress.advance(steps)
                    continue
                self._protect(number, group, stop)
        (self.out / STATE).unlink(missing_ok=True)
        self.record["state"] = "finished"
        write_record(self.out, self.record)

    def _is_done(self, entry: Entry) -> bool:
        about = self.record["files"].get(entry.name)
        if about is None:
            return False
        if about["protected"] and (not entry.target.is_file() or fingerprint(entry.target) != about["digest"]):
            raise PcsError(f"{entry.target}: is not as it was written; choose another --out.")
        return True

    def _protect(self, number: int, group: list[Entry], stop: Any) -> None:
        cloak = _cloak(self.recipe, group, self.surrogates)
        self._restore(cloak, number)
        while cloak.done < len(cloak.acts):
            try:
                loss = cloak.advance()
            except Diverged as why:
                raise RunFailed(f"{self.out}: {why} in the surrogate; lower train.learning_rate.") from None
            self.progress.advance(**({"loss": loss} if math.isfinite(loss) else {}))
            if stop or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
                self._save_state(cloak, number)
            if stop:
                raise Interrupted(f"{self.out}: stopped at step {cloak.done} of {len(cloak.acts)}; its state is saved.")
        for entry, canvas in zip(group, cloak.canvases, strict=True):
            self._write(entry, canvas)
        write_record(self.out, self.record)

    def _write(self, entry: Entry, canvas: Any) -> None:
        """Save one protected file and tell of it; a photo whose gradients were no numbers stays as it is."""
        about: dict[str, Any] = {"protected": False, "photo": entry.digest, "remarks": list(entry.remarks)}
        try:
            if canvas.broken:
                raise media.Unusable("got no usable gradient from the base")
            photo, reach = picture.read(entry.path), canvas.reach[0].numpy()
            made = save(photo, canvas.whole(), reach, entry.target, entry.kind, self.recipe.output)
        except media.Unusable as reason:
            self.record["skipped"][entry.name] = str(reason)
            self.progress.warn(f"{entry.name} is not protected: it {reason}.")
        else:
            about |= {"protected": True} | _told(made, self.out) | {"lpips": self._seen(photo, made.path)}
            self.progress.note(line(entry.name, about))
        self.record["files"][entry.name] = about

    def _seen(self, photo: picture.Picture, path: Path) -> float | None:
        """LPIPS of a file against its photo; None where it cannot be measured."""
        if self._perceptual.missing:
            return None
        before, after = (torch.from_numpy(one.on_white()) for one in (photo, picture.read(path)))
        return self._perceptual.distance(before, after)

    # -- its state -------------------------------------------------------------------------------------------

    def _save_state(self, cloak: Ensemble, number: int) -> None:
        tensors, about = cloak.state()
        write_tensors(self.out / STATE, tensors, about | {"group": str(number)})
        self._saved_at = time.monotonic()

    def _restore(self, cloak: Ensemble, number: int) -> None:
        if not (self.out / STATE).is_file():
            return
        tensors, about = read_tensors(self.out / STATE)
        if about.pop("group") == str(number):
            cloak.restore(tensors, about)
            self.progress.advance(cloak.done)
            self.progress.note(f"resumed at step {cloak.done}")


def _told(made: Saved, out: Path) -> dict[str, Any]:
    """What the record says of a protected file."""
    told = asdict(made) | {"path": made.path.relative_to(out).as_posix()}
    numbers = {name: round(told[name], 3) for name in ("largest", "mean")}
    return told | numbers | {"psnr": round(made.psnr, 2) if math.isfinite(made.psnr) else None}


def line(name: str, about: dict[str, Any]) -> str:
    """One photo in one line."""
    quality = f", JPEG {about['quality']}" if about["quality"] else ""
    psnr = f"{about['psnr']:.1f} dB" if about["psnr"] is not None else "unchanged"
    seen = f"LPIPS {about['lpips']:.3f}" if about["lpips"] is not None else "LPIPS not measured"
    return f"{name}  max {about['largest']:.3g}, mean {about['mean']:.2f} levels, PSNR {psnr}, {seen}{quality}"
