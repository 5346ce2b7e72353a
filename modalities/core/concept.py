"""What is being personalized: a noun, the phrase that stands for the subject, and the reference photos."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from modalities.core import media
from modalities.core.errors import PcsError
from modalities.core.media import Photo

NEAR_DUPLICATE_BITS = 3
BLURRED = 15.0


@dataclass(frozen=True)
class Concept:
    """A subject.

    Attributes:
        noun: the class word, "dog".
        phrase: what fills the slot of a prompt, "sks dog".
        photos: the usable reference photos, in the order of their names.
        skipped: files of the folder that are not used, each with the reason.
        warnings: what the user should know about the photos.
    """

    noun: str
    phrase: str
    photos: tuple[Photo, ...] = ()
    skipped: tuple[tuple[Path, str], ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_folder(cls, folder: Path, *, noun: str, subject: str = "sks {noun}", resolution: int = 0) -> Concept:
        """Read the photos of a folder; sub-folders are not entered, and captions beside the photos passed over.

        Args:
            folder: photos of one subject, any format that Pillow reads.
            noun: the class word.
            subject: template of the phrase; `{noun}` is replaced.
            resolution: side in pixels at which they will be used; smaller photos are warned about.

        Raises:
            PcsError: the folder is missing, unreadable, or holds no usable photo.
        """
        usable: list[Photo] = []
        skipped: list[tuple[Path, str]] = []
        paths, inner = _entries(folder)
        named = {path.stem for path in paths if path.suffix.lower() in media.SUFFIXES}
        for path in paths:
            if path.suffix.lower() == ".txt" and path.stem in named:
                continue
            if path.suffix.lower() not in media.SUFFIXES:
                skipped.append((path, "is not a picture by its name"))
                continue
            try:
                usable.append(media.read_photo(path))
            except media.Unusable as reason:
                skipped.append((path, str(reason)))
        if not usable:
            raise _nothing_usable(folder, skipped, inner)
        skipped += [(path, "is a folder: only the photos beside it are used") for path in inner]
        return cls(
            noun=noun,
            phrase=phrase_of(subject, noun),
            photos=tuple(usable),
            skipped=tuple(skipped),
            warnings=tuple(_warnings(usable, resolution)),
        )

    def prompt(self, template: str) -> str:
        """Fill the slot of `template` with the subject: "a {} in the snow" -> "a sks dog in the snow".

        Raises:
            PcsError: the template has no slot, or several.
        """
        return fill(template, self.phrase)

    def class_prompt(self, template: str) -> str:
        """Fill the slot with the class word alone: "a {} in the snow" -> "a dog in the snow"."""
        return fill(template, self.noun)

    @property
    def digest(self) -> str:
        """Hash of the noun, the phrase and the bytes of all photos: what a resumed run must find unchanged."""
        parts = [self.noun, self.phrase, *(photo.digest for photo in self.photos)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def phrase_of(subject: str, noun: str) -> str:
    """Return the phrase that stands for the subject: "sks {noun}", "dog" -> "sks dog"."""
    return " ".join(subject.replace("{noun}", noun).split())


def spelled(token: str, vectors: int) -> list[str]:
    """The words that a token of several vectors stands for, as diffusers names them."""
    return [token, *(f"{token}_{number}" for number in range(1, vectors))]


def fill(template: str, phrase: str) -> str:
    """Put `phrase` into the one slot `{}` of `template`.

    Raises:
        PcsError: there is not exactly one slot.
    """
    if template.count("{}") != 1:
        raise PcsError(
            f'the prompt "{template}" needs the subject\'s slot {{}} exactly once, for example "a {{}} in the snow".'
        )
    return template.replace("{}", phrase)


def checked_noun(noun: str) -> str:
    """Return the class word, tidied.

    Raises:
        PcsError: it is empty or holds braces.
    """
    tidy = " ".join(noun.split())
    if not re.search(r"\w", tidy) or "{" in tidy or "}" in tidy:
        raise PcsError(f'--noun "{noun}": give the class word of the subject, for example --noun dog.')
    return tidy


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files and the folders in `folder`, hidden ones left out, sorted by name."""
    if not folder.exists():
        raise PcsError(f"{folder}: there is no such folder.")
    if not folder.is_dir():
        raise PcsError(f"{folder}: is a file; give the folder that holds the photos.")
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise PcsError(f"{folder}: cannot be read ({error.strerror}).") from error
    return [path for path in entries if not path.is_dir()], [path for path in entries if path.is_dir()]


def _nothing_usable(folder: Path, skipped: list[tuple[Path, str]], inner: list[Path]) -> PcsError:
    if skipped:
        reasons = "; ".join(f"{path.name} {reason}" for path, reason in skipped[:5])
        more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        return PcsError(f"{folder}: none of its {len(skipped)} files is a usable photo: {reasons}{more}.")
    for path in inner:
        pictures = [inside for inside in path.iterdir() if inside.suffix.lower() in media.SUFFIXES]
        if pictures:
            return PcsError(f"{folder}: has no photos itself, but {path} has {len(pictures)}; give that folder.")
    return PcsError(f"{folder}: is empty; put 3 to 10 photos of the subject into it.")


def _warnings(photos: list[Photo], resolution: int) -> Iterable[str]:
    for number, photo in enumerate(photos):
        yield from (f"{photo.path.name} {remark}." for remark in photo.remarks)
        if min(photo.width, photo.height) < resolution:
            yield f"{photo.path.name} is only {photo.width}x{photo.height} pixels, training uses {resolution}."
        elif photo.sharpness < BLURRED:
            yield f"{photo.path.name} looks blurred."
        for other in photos[:number]:
            if (photo.fingerprint ^ other.fingerprint).bit_count() <= NEAR_DUPLICATE_BITS:
                yield f"{photo.path.name} and {other.path.name} are nearly the same picture."
                break
    if len(photos) < 3:
        yield f"only {len(photos)} usable photo{'s' if len(photos) > 1 else ''}: 3 to 10 work better."
