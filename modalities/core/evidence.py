"""What metrics look at: generated pictures with their prompts, photos of the subject, and features of both.

Pictures are read once, in batches, on threads beside the encoders; only features stay in memory.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from modalities.core import media
from modalities.core.concept import Concept
from modalities.core.encoders import ImageEncoder, TextImageEncoder, Thumbnails
from modalities.core.errors import PcsError
from modalities.core.machine import Machine
from modalities.core.metric import Absent
from modalities.core.progress import Progress, Silent

BATCH = 32
READERS = 4
PROMPT_FILES = (".csv", ".jsonl")


@dataclass(frozen=True)
class Picture:
    """A generated picture. prompt: what it should show, the class word in the subject's place; None if unknown."""

    path: Path
    prompt: str | None = None


@dataclass(frozen=True)
class Gallery:
    """Generated pictures of one subject by one method."""

    title: str
    pictures: tuple[Picture, ...]
    remarks: tuple[str, ...] = ()

    @classmethod
    def of_folder(cls, folder: Path, prompts: Path | None = None) -> Gallery:
        """All pictures in and below a folder, with prompts from a file or from what the pictures say of themselves.

        A file lists `file,prompt` (CSV) or {"file": …, "prompt": …} (JSON lines); pcs writes the prompt into every
        PNG that it makes. Contact sheets and hidden files are passed over.

        Raises:
            PcsError: there are no pictures, or the file of prompts is malformed or names pictures that are not there.
        """
        if not folder.is_dir():
            raise PcsError(f"{folder}: there is no such folder of pictures.")
        listed = _listed_prompts(prompts) if prompts else None
        if listed is None:
            found = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in media.SUFFIXES)
            paths = [path for path in found if not path.name.startswith((".", "sheet-", "contact-sheet"))]
        else:
            paths = [folder / name for name in listed]
        prompt_of = dict(zip(paths, listed.values(), strict=True)) if listed else {}
        missing = [path for path in paths if not path.is_file()]
        paths = [path for path in paths if path.is_file()]
        if not paths:
            raise PcsError(f"{folder}: holds no pictures to judge" + (f" of those in {prompts}." if prompts else "."))
        gaps = f"{prompts}: {len(missing)} of its pictures are missing, the first is"
        remarks = [f"{gaps} {path}" for path in missing[:1]]
        said = [prompt_of[path] if prompt_of else _own_prompt(path) for path in paths]
        pictures = tuple(Picture(path, prompt) for path, prompt in zip(paths, said, strict=True))
        return cls(folder.name, pictures, tuple(remarks))


def _listed_prompts(path: Path) -> dict[str, str]:
    """File name -> prompt."""
    if path.suffix.lower() not in PROMPT_FILES:
        raise PcsError(f"{path}: for a folder of pictures give a .csv or .jsonl file that lists file and prompt.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise PcsError(f"{path}: cannot be read ({error}).") from error
    try:
        if path.suffix.lower() == ".csv":
            rows: list[dict[str, Any]] = list(csv.DictReader(text.splitlines()))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        bare = next((row["file"] for row in rows if not row["prompt"]), None)
        if bare is not None:
            raise PcsError(f"{path}: {bare} has no prompt; every line must have a file and a prompt.")
        return {str(row["file"]): str(row["prompt"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise PcsError(f"{path}: every line must have a file and a prompt ({error!r}).") from error


def _own_prompt(path: Path) -> str | None:
    """The prompt that a PNG made by pcs carries, with the class word in the subject's place."""
    try:
        with Image.open(path) as image:
            said: dict[str, str] = getattr(image, "text", {})
    except (*media.UNREADABLE, Image.DecompressionBombError):
        return None
    return said.get("class_prompt")


@dataclass(frozen=True)
class Truth:
    """What is exactly known of a subject, where it is known: a line of a rendered folder's truth.jsonl."""

    subject: dict[str, Any]

    @classmethod
    def beside(cls, photos: Sequence[media.Photo]) -> Truth | None:
        """The truth that lies beside a folder of rendered photos."""
        listing = photos[0].path.parent.parent / "truth.jsonl" if photos else Path()
        if not listing.is_file():
            return None
        try:
            first = json.loads(listing.read_text(encoding="utf-8").partition("\n")[0])
            return cls(first["subject"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass
class Evidence:
    """All that metrics may ask for. Features are unit vectors, one row a picture; NaN where a picture is unreadable.

    class_pictures: what the learned model, and before it the base, draw of the class alone; None if there is no model.
    history: the looks of a run's training, as `metrics.jsonl` has them.
    """

    gallery: Gallery
    machine: Machine
    photos: tuple[media.Photo, ...] = ()
    class_pictures: Callable[[], tuple[list[Image.Image], list[Image.Image]]] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    progress: Progress = field(default_factory=Silent)

    @property
    def sources(self) -> dict[str, str]:
        """Which checkpoint is behind each encoder."""
        return {"subject": self.machine.subject_encoder, "clip": self.machine.clip, "thumbnails": Thumbnails.source}

    @property
    def groups(self) -> list[str]:
        """What each picture is a drawing of: its prompt, or itself where that is not known."""
        return [picture.prompt or str(picture.path) for picture in self.gallery.pictures]

    @cached_property
    def truth(self) -> Truth | None:
        return Truth.beside(self.photos)

    @cached_property
    def encoders(self) -> dict[str, ImageEncoder | Thumbnails]:
        return {"thumbnails": Thumbnails()}

    def encoder(self, name: str) -> ImageEncoder | Thumbnails:
        """The encoder "subject", "clip" or "thumbnails", loaded once.

        Raises:
            Absent: it cannot be loaded.
        """
        if name not in self.encoders:
            kind = TextImageEncoder if name == "clip" else ImageEncoder
            try:
                device, offline = self.machine.device.torch, self.machine.offline
                self.encoders[name] = kind(self.sources[name], device, offline=offline)
            except PcsError as error:
                variable = "PCS_CLIP" if name == "clip" else "PCS_SUBJECT_ENCODER"
                raise Absent(f"{error} Set {variable} to a transformers folder or Hub id.") from error
        return self.encoders[name]

    def look(self, names: Sequence[str]) -> None:
        """Read every picture once and keep what the named encoders see."""
        wanted = [name for name in dict.fromkeys(names) if name not in self._features]
        if not wanted:
            return
        encoders = [self.encoder(name) for name in wanted]
        rows: dict[str, list[Tensor]] = {name: [] for name in wanted}
        self.progress.start("looking at pictures", len(self.gallery.pictures))
        for images in self.batches():
            good = [image for image in images if image is not None]
            for name, encoder in zip(wanted, encoders, strict=True):
                rows[name].append(_with_gaps(encoder(good) if good else None, images))
            self.progress.advance(len(images))
        for name in wanted:
            width = next((part.shape[1] for part in rows[name] if part.shape[1]), 1)
            blank = [part if part.shape[1] else torch.full((len(part), width), torch.nan) for part in rows[name]]
            self._features[name] = torch.cat(blank)

    @cached_property
    def _features(self) -> dict[str, Tensor]:
        return {}

    def features(self, name: str) -> Tensor:
        """What an encoder sees of the pictures, (N, width)."""
        self.look([name])
        return self._features[name]

    def references(self, name: str) -> Tensor:
        """What an encoder sees of the photos, (R, width).

        Raises:
            Absent: there are no photos.
        """
        if not self.photos:
            raise Absent("needs photos of the subject: give --against PHOTOS.")
        if name not in self._photo_features:
            encoder = self.encoder(name)
            self._photo_features[name] = torch.cat([encoder([photo.open()]) for photo in self.photos])
        return self._photo_features[name]

    @cached_property
    def _photo_features(self) -> dict[str, Tensor]:
        return {}

    @cached_property
    def words(self) -> Tensor:
        """What CLIP makes of each picture's prompt, (N, width); NaN where a picture has none.

        Raises:
            Absent: no picture has a prompt.
        """
        said = [picture.prompt for picture in self.gallery.pictures]
        kinds = list(dict.fromkeys(prompt for prompt in said if prompt))
        if not kinds:
            raise Absent("needs prompts: give --prompts FILE that lists file and prompt.")
        encoder = self.encoder("clip")
        assert isinstance(encoder, TextImageEncoder)
        encoded = torch.cat([encoder.text(kinds[start : start + BATCH]) for start in range(0, len(kinds), BATCH)])
        nothing = torch.full_like(encoded[0], torch.nan)
        return torch.stack([encoded[kinds.index(prompt)] if prompt else nothing for prompt in said])

    def batches(self) -> Iterator[list[Image.Image | None]]:
        """All pictures in order, RGB, in batches; None for an unreadable one. The next batch is read meanwhile."""
        paths = [picture.path for picture in self.gallery.pictures]
        with ThreadPoolExecutor(READERS) as readers:
            ahead = [readers.map(_read, paths[:BATCH])]
            for start in range(BATCH, len(paths) + BATCH, BATCH):
                ahead.append(readers.map(_read, paths[start : start + BATCH]))
                yield list(ahead.pop(0))

    def open(self, number: int) -> Image.Image | None:
        """One picture, RGB; None if it is unreadable."""
        return _read(self.gallery.pictures[number].path)

    @cached_property
    def unreadable(self) -> tuple[Path, ...]:
        """Pictures that are no pictures."""
        for features in self._features.values():
            is_bad = features.isnan().any(1).tolist()
            break
        else:
            is_bad = [image is None for images in self.batches() for image in images]
        return tuple(one.path for one, bad in zip(self.gallery.pictures, is_bad, strict=True) if bad)


def _read(path: Path) -> Image.Image | None:
    try:
        return media.upright_rgb(path)[0]
    except media.Unusable:
        return None


def _with_gaps(rows: Tensor | None, images: list[Image.Image | None]) -> Tensor:
    """Rows of the readable pictures, and NaN for the others."""
    width = 0 if rows is None else rows.shape[1]
    spread = torch.full((len(images), width), torch.nan)
    if rows is not None:
        spread[[number for number, image in enumerate(images) if image is not None]] = rows
    return spread


def photos_of(folder: Path) -> tuple[media.Photo, ...]:
    """The usable photos of a folder."""
    return Concept.from_folder(folder, noun="thing").photos
