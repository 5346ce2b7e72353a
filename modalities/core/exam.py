"""The pictures that a run is judged by: every prompt, the same noise for every run, drawn once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from modalities.core import generate, media
from modalities.core.artifact import Artifact
from modalities.core.concept import Concept
from modalities.core.errors import Interrupted, PcsError
from modalities.core.evidence import Gallery, Picture
from modalities.core.files import fingerprint, slug, write_json
from modalities.core.machine import Machine
from modalities.core.progress import Progress, stop_on_signals
from modalities.core.studio import Studio


@dataclass(frozen=True)
class Exam:
    """What is asked of a run. Picture i of a prompt starts from the noise of (seed, i), whatever the run.

    subject: which of the run's subjects fills the slot, from 1.
    """

    templates: tuple[str, ...]
    count: int
    seed: int = 0
    subject: int = 1

    def concept(self, run: Artifact) -> Concept:
        """Who fills the slot."""
        return run.concept().subjects[self.subject - 1]

    def folder(self, run: Artifact) -> Path:
        """Where the pictures of a run lie."""
        return run.folder / "evaluation"

    def sit(self, run: Artifact, machine: Machine, progress: Progress) -> Gallery:
        """Let a run draw every prompt; what it drew before with the same weights is taken as it is.

        Raises:
            Interrupted: it was asked to stop; the pictures so far are kept.
        """
        concept, joint = self.concept(run), bool(run.concept().others)
        pictures = self.folder(run) / (f"pictures-{self.subject}" if joint else "pictures")
        _forget_others(self.folder(run), {"weights": fingerprint(run.weights_file), "seed": self.seed})
        wanted = [
            (concept.prompt(template), concept.class_prompt(template), index)
            for template in self.templates
            for index in range(self.count)
        ]
        paths = [pictures / f"{slug(said)}-{_short(said)}-{index:03}.png" for _, said, index in wanted]
        missing = [number for number, path in enumerate(paths) if not path.is_file()]
        if missing:
            studio = run.studio(machine, progress)
            progress.start("drawing", len(wanted), done=len(wanted) - len(missing))
            with stop_on_signals() as stop:
                for number in missing:
                    prompt, said, index = wanted[number]
                    picture = generate.of_studio(studio, prompt, seed=self.seed, index=index)
                    media.save_png(picture, paths[number], {"prompt": prompt, "class_prompt": said})
                    progress.advance()
                    if stop:
                        raise Interrupted(f"{run.folder}: stopped; the pictures so far are kept.")
        drawn = tuple(Picture(path, said) for path, (_, said, _) in zip(paths, wanted, strict=True))
        return Gallery(f"{run.folder.name}, {concept.phrase}" if joint else run.folder.name, drawn)

    def class_pictures(self, run: Artifact, machine: Machine) -> Callable[[], tuple[list[Image], list[Image]]]:
        """What the run, and its base before it learned, draw of the class alone."""

        def draw() -> tuple[list[Image], list[Image]]:
            prompts = [self.concept(run).class_prompt(template) for template in self.templates]
            learned = run.studio(machine)
            after = generate.previews(learned, prompts, 1)
            backbone = machine.backbone(run.recipe().backbone)
            bare = Studio(backbone, run.concept(), run.recipe(), training=False, cache=machine.cache)
            return after, generate.previews(bare, prompts, 1)

        return draw


def _short(prompt: str) -> str:
    """Tells apart prompts whose slugs are alike."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:6]


def _forget_others(folder: Path, made_of: dict[str, object]) -> None:
    """Delete pictures that other weights drew."""
    listing = folder / "made-of.json"
    if listing.is_file() and json.loads(listing.read_text(encoding="utf-8")) != made_of:
        for path in folder.glob("pictures*/*.png"):
            path.unlink()
    write_json(listing, made_of)


def read_templates(path: Path) -> tuple[str, ...]:
    """Prompts from a text file, one a line, each with the slot {} once; empty lines and # comments are passed over.

    Raises:
        PcsError: the file cannot be read, holds no prompt, or a line has no slot.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeError) as error:
        raise PcsError(f"{path}: cannot be read ({error}).") from error
    templates = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not templates:
        raise PcsError(f"{path}: holds no prompt; write one a line, with {{}} for the subject.")
    bad: Sequence[str] = [line for line in templates if line.count("{}") != 1]
    if bad:
        raise PcsError(f'{path}: the prompt "{bad[0]}" needs the subject\'s slot {{}} exactly once.')
    return templates
