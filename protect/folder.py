"""A folder of photos and the folder of protected files that comes of it: names, refusals, and the record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modalities.core import files, media
from modalities.core.errors import PcsError
from modalities.core.files import fingerprint, write_json
from protect import picture
from protect.recipe import Protection

RECORD = "protect.json"
FORMAT = 1
# Pixels of all photos of a group: their changes are held in memory together.
GROUP_PIXELS = 48_000_000
FLAT_SHARE = 0.8
RAW = {".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".jxl"}


@dataclass(frozen=True)
class Entry:
    """A photo that will be protected.

    Attributes:
        name: its path inside the folder, with forward slashes.
        path: of the photo.
        target: of the protected file.
        kind: format of the protected file, as Pillow names it.
        pixels: width times height.
        digest: SHA-256 of the photo's bytes.
        remarks: what is odd about it.
    """

    name: str
    path: Path
    target: Path
    kind: str
    pixels: int
    digest: str
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Folder:
    """What a folder of photos holds.

    Attributes:
        entries: the photos that will be protected, by name.
        skipped: pictures that cannot be protected, by name, each with the reason.
        other: files that are no pictures by their names.
    """

    entries: tuple[Entry, ...]
    skipped: dict[str, str]
    other: tuple[str, ...]

    def groups(self, together: int) -> list[list[Entry]]:
        """The photos in groups that share a surrogate, none larger than memory is planned for."""
        groups: list[list[Entry]] = []
        for entry in self.entries:
            last = groups[-1] if groups else []
            if not last or len(last) == together or sum(one.pixels for one in last) + entry.pixels > GROUP_PIXELS:
                groups.append([])
            groups[-1].append(entry)
        return groups


def look(photos: Path, out: Path, recipe: Protection) -> Folder:
    """See which photos there are and what would become of them; nothing is written.

    Raises:
        PcsError: there is nothing to protect, the folders are inside one another, or two files would get one name.
    """
    _require_apart(photos, out)
    entries: list[Entry] = []
    skipped: dict[str, str] = {}
    other: list[str] = []
    for path in _files(photos):
        name = path.relative_to(photos).as_posix()
        if path.suffix.lower() in RAW:
            skipped[name] = "is a camera's raw file; convert it to TIFF, PNG or JPEG first"
        elif path.suffix.lower() not in media.SUFFIXES:
            other.append(name)
        elif not path.resolve().is_relative_to(photos.resolve()):
            skipped[name] = "is a link out of the folder"
        else:
            try:
                entries.append(_entry(path, name, out, recipe))
            except media.Unusable as reason:
                skipped[name] = str(reason)
    if not entries:
        why = "; ".join(f"{name} {reason}" for name, reason in list(skipped.items())[:5])
        raise PcsError(f"{photos}: holds no photo that can be protected" + (f": {why}." if why else "."))
    _require_own_names(entries)
    return Folder(tuple(entries), skipped, tuple(other))


def _files(photos: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden, sorted; linked folders are not entered."""
    try:
        os.scandir(photos).close()
    except OSError as error:
        raise PcsError(f"{photos}: cannot be read ({error.strerror}); give a folder of photos.") from error
    found = (Path(place) / name for place, _, names in os.walk(photos) for name in names)
    shown = (path for path in found if not any(part.startswith(".") for part in path.relative_to(photos).parts))
    return iter(sorted(path for path in shown if path.name != RECORD))


def _entry(path: Path, name: str, out: Path, recipe: Protection) -> Entry:
    """Look at one photo.

    Raises:
        Unusable: it cannot be protected.
    """
    if not path.is_file():
        raise media.Unusable("is no file")
    photo = picture.read(path)
    height, width = photo.size
    if min(height, width) < picture.SMALLEST_SIDE:
        raise media.Unusable(f"is too small ({width}x{height} pixels; at least {picture.SMALLEST_SIDE} a side)")
    own = "PNG" if photo.format in picture.BECOME_PNG else photo.format
    kind = {"same": own, "png": "PNG", "jpeg": "JPEG"}[recipe.output.format]
    if kind == "JPEG" and (photo.alpha is not None or photo.per_level != 1):
        raise media.Unusable("has transparency or 16 bits, which JPEG cannot hold; leave output.format as it is")
    remarks = photo.remarks
    if _flat_share(photo) > FLAT_SHARE:
        remarks = (
            *remarks,
            "is flat in most places, where a change is seen most; --set budget.texture=0.7 spares them",
        )
    target = out / name if kind == photo.format else (out / name).with_suffix(picture.KEPT[kind])
    return Entry(name, path, target, kind, height * width, fingerprint(path), remarks)


def _flat_share(photo: picture.Picture) -> float:
    """Share of neighbouring pixels whose levels differ by less than one."""
    steps = np.abs(np.diff(photo.levels.mean(0), axis=1))
    return float((steps < 1).mean())


def _require_apart(photos: Path, out: Path) -> None:
    if not photos.is_dir():
        raise PcsError(f"{photos}: {'is a file' if photos.exists() else 'there is no such folder'}; give a folder.")
    inside, outside = photos.resolve(), out.resolve()
    if outside == inside:
        raise PcsError(f"{out}: is the folder of the photos, which are never changed; choose another --out.")
    if outside.is_relative_to(inside) or inside.is_relative_to(outside):
        raise PcsError(f"{out}: and {photos} are one inside the other; choose an --out of its own.")
    if out.exists() and not out.is_dir():
        raise PcsError(f"{out}: is a file; choose another --out.")


def _require_own_names(entries: list[Entry]) -> None:
    """Refuse two photos that one file system would write to one place."""
    taken: dict[str, str] = {}
    for entry in entries:
        key = str(entry.target).casefold()
        if key in taken:
            raise PcsError(f"{taken[key]} and {entry.name} would be written to one file; rename one of them.")
        taken[key] = entry.name


# -- the record ----------------------------------------------------------------------------------------------


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `protect.json` says, or None where there is none.

    Raises:
        PcsError: it is damaged, or of another version.
    """
    path = folder / RECORD
    return files.read_record(path, FORMAT) if path.is_file() else None


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replace `protect.json`."""
    write_json(folder / RECORD, record)


def already_protected(photos: Path, entries: tuple[Entry, ...]) -> list[str]:
    """Names of photos that a `protect.json` beside them says are protected files."""
    record = read_record(photos)
    made = {one["digest"] for one in record["files"].values() if one["protected"]} if record else set[str]()
    return [entry.name for entry in entries if entry.digest in made]
