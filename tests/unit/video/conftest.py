"""One tiny base with a sibling for clips, and studios on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modalities.core import bases, recipe
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.personalize import personalize
from modalities.core.studio import Studio
from modalities.video.concept import VideoConcept, with_clips
from modalities.video.customize import narrowed
from modalities.video.session import VideoSession
from tests import driver, tiny, tiny_clips

METHOD: dict[str, Any] = {
    "title": "appearance and motion",
    "modality": "video",
    "components": [
        {"footage": {"frames": 4}},
        {"textual_inversion": {"token": "<new>"}},
        {"appearance_lora": {"rank": 2, "text_encoder": 2}},
        {"prior_preservation": {"weight": 0.5}},
        {"appearance_absorber": {"rank": 2, "left_out": 0.3}},
        {"motion_lora": {"rank": 2, "alpha": 4}},
        "appearance_debiased_loss",
        "initial_noise",
    ],
    "phases": [
        {"learn": {"textual_inversion": 0.01, "appearance_lora": 0.01}, "steps": 4},
        {"learn": {"appearance_absorber": 0.01, "motion_lora": 0.01}, "steps": 6},
    ],
    "data": {"subject": "<new>"},
    "train": {"batch": 2, "schedule": "cosine", "warmup": 2},
    "validation": {"every": 5, "prompts": ["a {} in the snow"], "images": 1},
    "sample": {"steps": 2, "guidance": 2.0},
}


@pytest.fixture(scope="session")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of an image base and of the video base that shares its weights."""
    return tiny_clips.siblings(tmp_path_factory.mktemp("siblings"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of eight frames."""
    return tiny_clips.write(tmp_path_factory.mktemp("clips") / "right.mp4", tiny_clips.frames())


class Atelier:
    """Makes recipes, concepts, studios and runs on the tiny video base."""

    def __init__(self, base: Path, clip: Path, folder: Path, encoders: tuple[str, str]) -> None:
        self.base, self.clip, self.folder = base, clip, folder
        self.machine = driver.machine(encoders, folder / "cache")

    def recipe(self, **changes: Any) -> recipe.Recipe:
        return recipe.parse(json.dumps(METHOD | {"backbone": str(self.base)} | changes), "test")

    def concept(self, clips: int = 1) -> VideoConcept:
        photos = self.folder / "photos"
        if not photos.is_dir():
            tiny.photos(photos)
        subject = Concept.from_folder(photos, noun="dog", subject="<new>")
        return with_clips(subject, [self.clip] * clips, ["a {cat} running"])

    def studio(self, clips: int = 1, **changes: Any) -> Studio:
        backbone = bases.load(bases.resolve(str(self.base)), choose("cpu"), offline=True)
        cache = Cache(self.folder / "cache")
        return Studio(backbone, self.concept(clips), self.recipe(**changes), training=True, cache=cache)

    def run(self, name: str = "run", *, resume: bool = False, motion_only: bool = False, **changes: Any) -> Artifact:
        chosen, concept = self.recipe(**changes), self.concept()
        if motion_only:
            chosen = narrowed(chosen, photos=False, clips=True)
            concept = with_clips(Concept("thing", "thing"), [self.clip], ["a {cat} running"])
        return personalize(chosen, concept, self.folder / name, self.machine, resume=resume, session=VideoSession)


@pytest.fixture
def atelier(siblings: tuple[Path, Path], clip: Path, tmp_path: Path, encoders: tuple[str, str]) -> Atelier:
    """The workshop of one test."""
    return Atelier(siblings[1], clip, tmp_path, encoders)
