"""Benchmarks of subjects and prompts, read from the layouts in which they are published."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from modalities.core import media
from modalities.core.errors import PcsError
from modalities.core.files import write_json

# Classes of DreamBench's live subjects, which have prompts of their own.
LIVE = ("cat", "dog")
UNIFIED_OBJECTS, UNIFIED_FACES, UNIFIED_PETS = 47, 15, 10


@dataclass(frozen=True)
class Subject:
    """One subject. photos: the folder of its reference photos. kind: "object", "live" or "face"."""

    name: str
    noun: str
    kind: str
    photos: str
    prompts: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Dataset:
    """Subjects with their prompts, each prompt with the slot {}."""

    name: str
    subjects: tuple[Subject, ...]
    remarks: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write the manifest."""
        write_json(path, {"format": 1, **asdict(self)})

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Read a manifest.

        Raises:
            PcsError: it is not there, or not one.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            subjects = tuple(_told(one) for one in told["subjects"])
            return cls(told["name"], subjects, tuple(told["remarks"]))
        except OSError as error:
            raise PcsError(f"{path}: cannot be read ({error.strerror}); make it with `pcs bench init`.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise PcsError(f"{path}: is no manifest of `pcs bench init` ({error!r}).") from error


def _told(one: dict[str, Any]) -> Subject:
    """A subject as the manifest has it."""
    plain = {name: str(one[name]) for name in ("name", "noun", "kind", "photos", "digest")}
    return Subject(prompts=tuple(one["prompts"]), **plain)


def dreambench(root: Path) -> Dataset:
    """DreamBench: a folder for each subject, classes and prompts in prompts_and_classes.txt.

    Ruiz et al., CVPR 2023, section 4.1. https://github.com/google/dreambooth
    """
    listing = root / "prompts_and_classes.txt"
    text = _text(listing)
    classes = dict(re.findall(r"^(\w+),([\w ]+)$", text.replace("subject_name,class", ""), re.M))
    lists = [re.findall(r"'(a[^']*)'\.format", part) for part in text.split("prompt_list")[1:]]
    if not classes or len(lists) != 2 or not all(lists):
        raise PcsError(f"{listing}: holds no classes, or not its two lists of prompts; give the one of DreamBench.")
    objects, live = (tuple(one.replace("{0} {1}", "{}") for one in prompts) for prompts in lists)
    folders = [name for name in classes if (root / name).is_dir()]
    subjects = [
        _subject(root / name, name, classes[name], *(("live", live) if classes[name] in LIVE else ("object", objects)))
        for name in folders
    ]
    absent = sorted(set(classes) - set(folders))
    remarks = [f"{len(absent)} of {len(classes)} subjects have no folder: {', '.join(absent)}"] if absent else []
    return _checked("dreambench", root, subjects, remarks)


def custom101(root: Path) -> Dataset:
    """CustomConcept101: dataset.json, prompts/ and benchmark_dataset/ beside each other.

    Kumari et al., CVPR 2023. https://github.com/adobe-research/custom-diffusion
    """
    listing = root / "dataset.json"
    try:
        rows = json.loads(_text(listing))
        wanted = [(row["instance_data_dir"], row["class_prompt"], row["prompt_filename"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise PcsError(f"{listing}: is not the listing of CustomConcept101 ({error!r}).") from error
    subjects, remarks = [], []
    for folder, noun, prompts in wanted:
        place = root / folder
        if not place.is_dir() or not (root / prompts).is_file():
            remarks.append(f"{place if not place.is_dir() else root / prompts} is missing")
            continue
        subjects.append(_subject(place, place.name, noun, "object", _templates(root / prompts)))
    return _checked("custom101", root, subjects, remarks)


def pcs_unified(root: Path) -> Dataset:
    """The unified test set of the survey of personalized content synthesis: 47 objects, 10 of them pets, and 15 faces.

    https://arxiv.org/abs/2405.05538, section 7.3. Expects objects/NAME/, pets/NAME/ and faces/NAME/ with a file
    class.txt or a class as the name's first word, and prompts-objects.txt, prompts-pets.txt and prompts-faces.txt.
    """
    subjects: list[Subject] = []
    remarks: list[str] = []
    kinds = {"objects": ("object", UNIFIED_OBJECTS - UNIFIED_PETS), "pets": ("live", UNIFIED_PETS)}
    for name, (kind, count) in {**kinds, "faces": ("face", UNIFIED_FACES)}.items():
        folders = sorted(path for path in (root / name).glob("*") if path.is_dir())
        if len(folders) != count:
            remarks.append(f"{root / name}: {len(folders)} subjects instead of {count}")
        if folders:
            prompts = _templates(root / f"prompts-{name}.txt")
            subjects += [_subject(one, one.name, _class_of(one, kind), kind, prompts) for one in folders]
    return _checked("pcs-unified", root, subjects, remarks)


LAYOUTS: dict[str, Callable[[Path], Dataset]] = {
    "dreambench": dreambench,
    "custom101": custom101,
    "pcs-unified": pcs_unified,
}


def _checked(name: str, root: Path, subjects: list[Subject], remarks: list[str]) -> Dataset:
    if not subjects:
        raise PcsError(f"{root}: holds no subject of {name}; {'; '.join(remarks) or 'give the folder it unpacks to'}.")
    names = [one.name for one in subjects]
    # Folders of one name in different groups are different subjects.
    subjects = [
        replace(one, name=f"{Path(one.photos).parent.name}-{one.name}") if names.count(one.name) > 1 else one
        for one in subjects
    ]
    return Dataset(name, tuple(sorted(subjects, key=lambda one: one.name)), tuple(remarks))


def _subject(folder: Path, name: str, noun: str, kind: str, prompts: tuple[str, ...]) -> Subject:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in media.SUFFIXES)
    if not files:
        raise PcsError(f"{folder}: holds no photos.")
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()
    return Subject(name, noun, kind, str(folder.resolve()), prompts, digest)


def _class_of(folder: Path, kind: str) -> str:
    told = folder / "class.txt"
    if told.is_file():
        return told.read_text(encoding="utf-8").strip()
    return "person" if kind == "face" else re.split(r"[\W_\d]+", folder.name)[0] or folder.name


def _templates(path: Path) -> tuple[str, ...]:
    """Prompts, one a line; a class or subject is {} in them."""
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    bad = next((line for line in lines if line.count("{}") != 1), None)
    if bad is not None or not lines:
        raise PcsError(f'{path}: every prompt needs the slot {{}} once, but there is "{bad}".')
    return tuple(lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise PcsError(f"{path}: cannot be read ({error}).") from error
