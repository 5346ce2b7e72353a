"""What is being customized: a subject on photos, a motion in clips, or both."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from modalities.core.concept import Concept
from modalities.core.errors import PcsError
from modalities.video.clips import Clip, read_clip, remarks

MOVER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class VideoConcept(Concept):
    """A subject with clips.

    Attributes:
        clips: what to learn motion from.
        captions: what each of them shows, in words.
        templates: the captions with the slot {} in place of what moves, where that was marked.
    """

    clips: tuple[Clip, ...] = ()
    captions: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        parts = [super().digest, *(clip.digest for clip in self.clips), *self.captions, *self.templates]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def with_clips(concept: Concept, paths: list[Path], prompts: list[str]) -> VideoConcept:
    """Add clips to a concept.

    Args:
        concept: the subject; one without photos where only a motion is learned.
        paths: video files.
        prompts: what each clip shows, or one for all; what moves may stand in braces, "a {duck} jumping".

    Raises:
        PcsError: a file is no usable clip, or there are too few or too many prompts.
    """
    if paths and len(prompts) not in (1, len(paths)):
        raise PcsError(
            f"--prompt: {len(prompts)} given for {len(paths)} clips; give one for all or one for each, "
            'for example --prompt "a {duck} jumping on the grass".'
        )
    clips = tuple(read_clip(path) for path in paths)
    spelled = prompts if len(prompts) == len(paths) else prompts * len(paths)
    captions = tuple(_caption(prompt) for prompt in spelled)
    marked = tuple(dict.fromkeys(MOVER.sub("{}", prompt, count=1) for prompt in spelled if MOVER.search(prompt)))
    told = tuple(line for clip in clips for line in remarks(clip))
    return VideoConcept(
        noun=concept.noun,
        phrase=concept.phrase,
        photos=concept.photos,
        skipped=concept.skipped,
        warnings=(*concept.warnings, *told),
        clips=clips,
        captions=captions,
        templates=marked,
    )


def _caption(prompt: str) -> str:
    """A prompt without its braces.

    Raises:
        PcsError: it is empty, or its braces hold nothing or are too many.
    """
    marks = MOVER.findall(prompt)
    caption = " ".join(MOVER.sub(r"\1", prompt).split())
    if not re.search(r"\w", caption) or len(marks) > 1 or not all(mark.strip() for mark in marks) or "{" in caption:
        raise PcsError(
            f'--prompt "{prompt}": say what the clip shows, with what moves in braces, '
            'for example "a {duck} jumping on the grass".'
        )
    return caption
