"""A caption for every photo, so that what is not the subject is said and need not be learned.

Captions that describe the scene keep it out of the word (survey of personalized content synthesis, section 3.1.4,
https://arxiv.org/abs/2405.05538). They are somebody's, in text files, or the base's own: of several phrases the one
with which it errs least describes a picture (Diffusion Classifier, Li et al., ICCV 2023,
https://arxiv.org/abs/2303.16203).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import PrivateAttr

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.concept import Concept
    from modalities.core.media import Photo
    from modalities.core.step import Batch
    from modalities.core.studio import Studio

PLACES = (
    "on the beach", "in the snow", "on the grass", "in the forest", "in the desert", "on the street",
    "in a city at night", "on the water", "on a wooden table", "on a sofa", "on a bed", "on a carpet",
    "in a garden", "in a room", "in front of a wall", "on a white background", "on a red background",
    "on a blue background", "on the moon",
)  # fmt: skip
VIEWS = (", front view", ", side view", ", seen from behind", ", seen from above")
# A base is asked about every phrase so often, and about the likeliest of them so often again, each time at another of
# these shares of its times: in more noise hardly anything is to be seen, in less the words hardly matter.
ASKED, AGAIN, LIKELIEST, TIMES = 8, 16, 4, (0.3, 0.9)


class Captions(Component):
    """Takes each photo's prompt from the text file of its name, with {} for the subject: "{} on a wooden chair".

    Or lets the base add to the prompts, in its own words, where a photo was taken and from which side.
    """

    source: Literal["files", "base"] = "files"
    folder: Path | None = None
    """Where the text files are; None looks beside the photos."""
    places: tuple[str, ...] = PLACES
    """What the base may say of a place, or nothing."""
    views: tuple[str, ...] = VIEWS
    """What it may say of the side from which the subject is seen, or nothing."""

    _said: list[str] = PrivateAttr(default_factory=list[str])

    def said(self, number: int, prompt: str) -> str:
        """What is said of photo `number` of the concept where `prompt` would be said of all."""
        return self._said[number] if self.source == "files" else prompt + self._said[number]

    def reads(self, concept: Concept) -> list[Path]:
        if self.source == "base":
            return []
        return [path for photo in concept.all_photos if (path := self._file(photo)).is_file()]

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        if studio.training:
            self._said = self._read(studio.concept) if self.source == "files" else self._chosen(studio)

    def _read(self, concept: Concept) -> list[str]:
        if self.folder and not self.folder.is_dir():
            raise PcsError(f"captions.folder: {self.folder} is no folder.")
        said, missing = list[str](), list[str]()
        for photo, subject in zip(concept.all_photos, concept.owners, strict=True):
            path = self._file(photo)
            try:
                text = " ".join(path.read_text(encoding="utf-8").split())
            except FileNotFoundError:
                missing.append(photo.path.name)
                continue
            except (OSError, UnicodeError) as error:
                raise PcsError(f"{path}: cannot be read as text ({error}).") from error
            if text.count("{}") != 1:
                raise PcsError(f"{path}: a caption names the subject with {{}} exactly once, not {text!r}.")
            said.append(subject.prompt(text))
        if missing:
            have = "has no text file of its name" if len(missing) == 1 else "have no text files of their names"
            raise PcsError(
                f"captions: {', '.join(missing)} {have}; write one for every photo, or let the base say what it sees "
                "(components.captions.source=base)."
            )
        return said

    def _file(self, photo: Photo) -> Path:
        return (self.folder or photo.path.parent) / f"{photo.path.stem}.txt"

    def _chosen(self, studio: Studio) -> list[str]:
        """For each photo the place and the view with which the base errs least, in words to add to a prompt."""
        photos = studio.concept.all_photos
        studio.progress.start("captions", len(photos))
        said = list[str]()
        for photo, subject in zip(photos, studio.concept.owners, strict=True):
            words = ""
            for phrases in (("", *(f" {place}" for place in self.places)), ("", *self.views)):
                words += phrases[self._best(studio, photo, [subject.noun + words + one for one in phrases])]
            said.append(words)
            studio.progress.note(f"{photo.path.name}: {(subject.noun + words) if words else 'nothing to say'}")
            studio.progress.advance()
        return said

    def _best(self, studio: Studio, photo: Photo, contents: Sequence[str]) -> int:
        """Which of several contents a photo shows."""
        import torch

        def compute() -> dict[str, Tensor]:
            first = self._errors(studio, photo, contents, range(ASKED))
            likeliest = [int(one) for one in first.argsort()[:LIKELIEST]]
            again = self._errors(studio, photo, [contents[one] for one in likeliest], range(ASKED, ASKED + AGAIN))
            errors = (ASKED * first[likeliest] + AGAIN * again) / (ASKED + AGAIN)
            return {"best": torch.tensor(likeliest[int(errors.argmin())])}

        key = (studio.backbone.fingerprint, photo.digest, studio.resolution, studio.draws.seed, *contents)
        with torch.no_grad(), studio.at_rest():
            return int(studio.cache.remember("captions", key, compute)["best"])

    def _errors(self, studio: Studio, photo: Photo, contents: Sequence[str], asked: range) -> Tensor:
        """The mean error (contents,) for a photo of each; all meet the same noise."""
        import torch

        from modalities.core.step import denoise

        posterior, count = studio.encode([photo]), len(asked)
        low, high = TIMES
        times = studio.backbone.schedule.timesteps(low + (high - low) * studio.draws.uniform("caption time", asked))
        rows: list[Tensor] = []
        for one in contents:
            batch = studio.batch(posterior, [0] * count, [f"a photo of a {one}"] * count, asked, purpose="caption")
            rows.append(denoise(studio.backbone, replace(batch, t=times.to(batch.t))).error.mean().cpu())
        return torch.stack(rows)

    def batch(self, batch: Batch) -> Batch:
        items = zip(batch.prompts, batch.positions, batch.is_prior.tolist(), strict=True)
        prompts = (
            prompt if prior else self.said(self.studio.photo_at(position), prompt) for prompt, position, prior in items
        )
        return replace(batch, prompts=tuple(prompts))
