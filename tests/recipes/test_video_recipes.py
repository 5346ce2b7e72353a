"""Every shipped video recipe learns appearance and motion on a tiny base, reopens and generates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modalities.core import personalize, recipe
from modalities.core.concept import Concept
from modalities.video.concept import with_clips
from modalities.video.generate import clip_of_studio
from modalities.video.session import VideoSession
from tests import driver, tiny, tiny_clips

NAMES = sorted(name for name in recipe.available() if name.startswith("video/"))


@pytest.fixture(scope="module")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_clips.siblings(tmp_path_factory.mktemp("siblings"))


def test_there_are_video_recipes() -> None:
    assert {"video/motiondirector", "video/customize_a_video", "video/temporal_qk", "video/vmc"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_trains_and_generates(
    name: str, siblings: tuple[Path, Path], encoders: tuple[str, str], tmp_path: Path
) -> None:
    short = recipe.load(
        name,
        {
            "train": {"batch": 1},
            "components": {"footage": {"frames": 4}},
            "validation": {"every": 9},
            "sample": {"steps": 1},
        },
        backbone=str(siblings[1]),
    )
    short = short.model_copy(update={"phases": [one.model_copy(update={"steps": 1}) for one in short.phases]})
    clip = tiny_clips.write(tmp_path / "right.mp4", tiny_clips.frames())
    subject = Concept.from_folder(tiny.photos(tmp_path / "photos"), noun="dog", subject=short.data.subject)
    concept = with_clips(subject, [clip], ["a {cat} running"])
    machine = driver.machine(encoders, tmp_path / "cache")
    run = personalize.personalize(short, concept, tmp_path / "run", machine, session=VideoSession)
    assert {"appearance.safetensors", "motion.safetensors"} <= {path.name for path in run.folder.iterdir()}
    moved = [value for name, value in run.weights().items() if "lora_B" in name]
    assert moved
    assert all(value.abs().max() > 0 for value in moved), "everything that stays has learned"
    made = clip_of_studio(run.studio(machine), run.concept().prompt("a {} running"), seed=0, index=0)
    assert made.shape == (4, 3, 32, 32)
    assert torch.isfinite(made).all()
