"""What is being personalized: a noun, the phrase that stands for the subject, and the reference photos."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from modalities.core import media
from modalities.core.errors import PcsError
from modalities.core.media import Photo

NEAR_DUPLICATE_BITS = 3
BLURRED = 15.0
# Rare words that the subjects of a run take in turn.
RARE = ("sks", "ohwx", "zwx", "hta", "olis", "pll")


@dataclass(frozen=True)
class Concept:
    """A subject, or several that are learned together.

    Attributes:
        noun: the class word, "dog".
        phrase: what fills the slot of a prompt, "sks dog".
        photos: the usable reference photos, in the order of their names.
        skipped: files of the folder that are not used, each with the reason.
        warnings: what the user should know about the photos.
        others: further subjects that are learned with this one, each without others.
    """

    noun: str
    phrase: str
    photos: tuple[Photo, ...] = ()
    skipped: tuple[tuple[Path, str], ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)
    others: tuple[Concept, ...] = ()

    @classmethod
    def from_folder(
        cls, folder: Path, *, noun: str, subject: str = "sks {noun}", number: int = 1, resolution: int = 0
    ) -> Concept:
        """Read the photos of a folder; sub-folders are not entered, and captions beside the photos passed over.

        Args:
            folder: photos of one subject, any format that Pillow reads.
            noun: the class word.
            subject: template of the phrase, as `phrase_of` takes it.
            number: place among the subjects of a run, from 1.
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
            phrase=phrase_of(subject, noun, number),
            photos=tuple(usable),
            skipped=tuple(skipped),
            warnings=tuple(_warnings(usable, resolution)),
        )

    @classmethod
    def together(cls, subjects: Sequence[Concept]) -> Concept:
        """Put several subjects into one concept.

        Raises:
            PcsError: two have the same phrase, so that no prompt could tell them apart.
        """
        phrases = [one.phrase for one in subjects]
        for phrase in phrases:
            if phrases.count(phrase) > 1:
                raise PcsError(
                    f'two subjects would both be called "{phrase}"; give them different nouns, or a data.subject '
                    'with a new word in angle brackets, such as "<new> {noun}".'
                )
        return replace(subjects[0], others=tuple(subjects[1:]))

    @property
    def subjects(self) -> tuple[Concept, ...]:
        """Every subject by itself."""
        return (replace(self, others=()), *self.others)

    @property
    def all_photos(self) -> tuple[Photo, ...]:
        """The photos of every subject, in the order of the subjects."""
        return tuple(photo for one in self.subjects for photo in one.photos)

    @property
    def owners(self) -> tuple[Concept, ...]:
        """The subject of each of `all_photos`."""
        return tuple(one for one in self.subjects for _ in one.photos)

    def prompt(self, template: str) -> str:
        """Fill the slots of `template`: "a {} in the snow" -> "a sks dog in the snow".

        Several subjects have the slots {1}, {2}, …, each at most once.

        Raises:
            PcsError: the template has no slot, a slot twice, or one of no subject.
        """
        return fill(template, *(one.phrase for one in self.subjects))

    def class_prompt(self, template: str) -> str:
        """Fill the slots with the class words alone: "a {} in the snow" -> "a dog in the snow"."""
        return fill(template, *(one.noun for one in self.subjects))

    @property
    def digest(self) -> str:
        """Hash of nouns, phrases and the bytes of all photos: what a resumed run must find unchanged."""
        parts = [
            part for one in self.subjects for part in (one.noun, one.phrase, *(photo.digest for photo in one.photos))
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def phrase_of(subject: str, noun: str, number: int = 1) -> str:
    """Return the phrase that stands for subject `number` of a run: "sks {noun}", "dog" -> "sks dog".

    From the second on, "sks" becomes another rare word, and a new word another new word ("<new>" -> "<new-2>").
    """
    words = [numbered(word, number) for word in subject.split()]
    return " ".join(" ".join(words).replace("{noun}", noun).split())


def numbered(word: str, number: int) -> str:
    """The rare or new word of subject `number` that stands for `word` of the first one; other words stay."""
    if number == 1:
        return word
    if word == RARE[0] and number <= len(RARE):
        return RARE[number - 1]
    return re.sub(r"^<([^<>]+)>$", rf"<\1-{number}>", word)


def of_subject(name: str, number: int) -> str:
    """The name of what subject `number` of a run learns: "table", of the second one "table.2"."""
    return name if number == 1 else f"{name}.{number}"


def require_word(phrase: str, word: str, component: str) -> None:
    """Check that a subject's phrase uses the new word of a component.

    Raises:
        PcsError: it does not.
    """
    if word not in phrase:
        raise PcsError(
            f'{component}: the subject is "{phrase}", which does not use the token {word}; '
            f'set data.subject to "{word}" or "{word} {{noun}}".'
        )


def sole(concept: Concept, component: str) -> Concept:
    """Return the concept, for a component that can learn only one.

    Raises:
        PcsError: there are several subjects.
    """
    if concept.others:
        raise PcsError(
            f"{component}: learns one subject at a time; train each by itself and join them with `pcs merge`, or take "
            "a recipe like image/custom_diffusion or image/dreambooth_lora."
        )
    return concept


def spelled(token: str, vectors: int) -> list[str]:
    """The words that a token of several vectors stands for, as diffusers names them."""
    return [token, *(f"{token}_{number}" for number in range(1, vectors))]


def fill(template: str, *phrases: str) -> str:
    """Put one phrase into the slot `{}` of `template`, or several into its slots `{1}`, `{2}`, ….

    Raises:
        PcsError: the slots are not those of the phrases.
    """
    slots = re.findall(r"\{(\d*)\}", template)
    if len(phrases) == 1:
        if slots not in ([""], ["1"]):
            raise PcsError(
                f'the prompt "{template}" needs the subject\'s slot {{}} exactly once, '
                'for example "a {} in the snow".'
            )
        return template.replace("{1}", "{}").replace("{}", phrases[0])
    known = [str(number + 1) for number in range(len(phrases))]
    if not slots or len(set(slots)) < len(slots) or not set(slots) <= set(known):
        named = ", ".join(f"{{{number}}} for {phrase}" for number, phrase in zip(known, phrases, strict=True))
        raise PcsError(f'the prompt "{template}" needs at least one of the slots {named}, each at most once.')
    return re.sub(r"\{(\d+)\}", lambda slot: phrases[int(slot[1]) - 1], template)


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
