"""A caption for every photo, so that what is not the subject is said and need not be learned.

Captions that describe the scene keep it out of the word (survey of personalized content synthesis, section 3.1.4,
https://arxiv.org/abs/2405.05538).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PrivateAttr

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from modalities.core.concept import Concept
    from modalities.core.media import Photo
    from modalities.core.step import Batch
    from modalities.core.studio import Studio


class Captions(Component):
    """Takes each photo's prompt from the text file of its name, with {} for the subject: "{} on a wooden chair"."""

    folder: Path | None = None
    """Where the text files are; None looks beside the photos."""

    _prompts: list[str] = PrivateAttr(default_factory=list[str])

    @property
    def prompts(self) -> list[str]:
        """The prompt of every photo of the concept."""
        return self._prompts

    def reads(self, concept: Concept) -> list[Path]:
        return [path for photo in concept.all_photos if (path := self._file(photo)).is_file()]

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        if not studio.training:
            return
        if self.folder and not self.folder.is_dir():
            raise PcsError(f"captions.folder: {self.folder} is no folder.")
        missing: list[str] = []
        for photo, subject in zip(studio.concept.all_photos, studio.concept.owners, strict=True):
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
            self._prompts.append(subject.prompt(text))
        if missing:
            have = "has no text file of its name" if len(missing) == 1 else "have no text files of their names"
            raise PcsError(f"captions: {', '.join(missing)} {have}; write one for every photo.")

    def _file(self, photo: Photo) -> Path:
        return (self.folder or photo.path.parent) / f"{photo.path.stem}.txt"

    def batch(self, batch: Batch) -> Batch:
        own = [self._prompts[self.studio.photo_at(position)] for position in batch.positions]
        prompts = zip(batch.prompts, own, batch.is_prior.tolist(), strict=True)
        return replace(batch, prompts=tuple(prompt if prior else said for prompt, said, prior in prompts))
