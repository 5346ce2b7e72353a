"""Stages of a long run, each a folder with `done.json`: a run goes on where it stood and sees what was changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalities.core.errors import PcsError
from modalities.core.files import fingerprint, read_json, write_json


@dataclass(frozen=True)
class Stage:
    """One stage: the folder it writes, what it depends on, its work, and the files that later stages read.

    `work` gets the folder and must itself be able to go on where it was stopped; it returns scores to be noted.
    `may_shrink`: files of it may be deleted by hand before a later stage reads them.
    """

    name: str
    inputs: Callable[[], str]
    work: Callable[[Path], dict[str, Any]]
    files: Callable[[Path], Sequence[Path]]
    may_shrink: bool = False


def run_stages(folder: Path, stages: Sequence[Stage], begin: Callable[[Stage], None]) -> list[dict[str, Any]]:
    """Do those stages that are not done yet, in order; return the notes of all.

    Raises:
        PcsError: a finished stage no longer holds what it wrote, or was made from other inputs.
    """
    notes: list[dict[str, Any]] = []
    for number, stage in enumerate(stages):
        place = folder / stage.name
        told = _told(place)
        if told is None:
            begin(stage)
            started = time.monotonic()
            scores = stage.work(place)
            told = {
                "stage": stage.name,
                "inputs": stage.inputs(),
                "seconds": round(time.monotonic() - started, 1),
                "scores": scores,
                "files": {str(path.relative_to(place)): fingerprint(path) for path in stage.files(place)},
            }
            write_json(place / "done.json", told)
        else:
            _require_unchanged(place, stage, told, [later.name for later in stages[number:]])
        notes.append(told)
    return notes


def digest(*parts: object) -> str:
    """Hash of what a stage depends on."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def _told(place: Path) -> dict[str, Any] | None:
    path = place / "done.json"
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except PcsError as error:
        raise PcsError(f"{error} Delete the folder {place} to make the stage again.") from error


def _require_unchanged(place: Path, stage: Stage, told: dict[str, Any], later: list[str]) -> None:
    for name, known in told["files"].items():
        path = place / name
        if not path.is_file():
            if stage.may_shrink:
                continue
            raise PcsError(f"{path}: is gone since the stage was done; delete the folder {place} to make it again.")
        if fingerprint(path) != known:
            raise PcsError(
                f"{path}: was changed since the stage was done; delete the folders {', '.join(later)} in "
                f"{place.parent} to make them again."
            )
    if told["inputs"] != stage.inputs():
        raise PcsError(
            f"{place}: was made from something else (recipe, photos, or an earlier stage changed since); delete the "
            f"folders {', '.join(later)} in {place.parent} to make them again."
        )
