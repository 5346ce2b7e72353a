"""Every shipped video recipe learns appearance and motion on a tiny base, reopens and generates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modalities.core import personalize, recipe
from modalities.core.concept import Concept
from modalities.core.errors import PcsError
from modalities.video.concept import with_clips
from modalities.video.customize import narrowed
from modalities.video.generate import clip_of_studio
from modalities.video.learner import Learner, source_of
from modalities.video.session import VideoSession
from tests import driver, tiny, tiny_clips

BEGAN_AT_ZERO = (".lora_B.weight", ".beside.2.weight", ".change")
NAMES = sorted(name for name in recipe.available() if name.startswith("video/"))


@pytest.fixture(scope="module")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_clips.siblings(tmp_path_factory.mktemp("siblings"))


def test_there_are_video_recipes() -> None:
    papers = {"motiondirector", "customize_a_video", "temporal_qk", "vmc", "dreamvideo", "tune_a_video", "lamp"}
    assert {f"video/{name}" for name in papers | {"set_and_sequence"}} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_trains_and_generates(
    name: str, siblings: tuple[Path, Path], encoders: tuple[str, str], tmp_path: Path
) -> None:
    changes = {
        "train": {"batch": 1},
        "components": {"footage": {"frames": 4}},
        "validation": {"every": 9},
        "sample": {"steps": 1},
    }
    inflates = recipe.load(name).component("inflated_attention") is not None
    short = recipe.load(name, changes, backbone=str(siblings[0 if inflates else 1]))
    short = short.model_copy(update={"phases": [one.model_copy(update={"steps": 1}) for one in short.stretches()]})
    learns = {name for phase in short.phases for name in phase.learn}
    sources = {source_of(part) for part in short.components if part.name in learns}
    clip = tiny_clips.write(tmp_path / "right.mp4", tiny_clips.frames())
    subject = Concept("dog", "dog")
    if "photos" in sources:
        subject = Concept.from_folder(tiny.photos(tmp_path / "photos"), noun="dog", subject=short.data.subject)
    concept = with_clips(subject, [clip], ["a {cat} running"])
    machine = driver.machine(encoders, tmp_path / "cache")
    run = personalize.personalize(short, concept, tmp_path / "run", machine, session=VideoSession)
    written = {path.name for path in run.folder.iterdir()}
    assert "motion.safetensors" in written
    assert ("appearance.safetensors" in written) == bool(sources - {"clips"})
    studio = run.studio(machine)
    for part in studio.components:
        if isinstance(part, Learner) and part.kept:
            began = [value for name, value in part.parameters().items() if name.endswith(BEGAN_AT_ZERO)]
            assert any(value.abs().max() > 0 for value in began), f"{part.name} has learned"
    prompt = "a dog running" if not concept.photos else run.concept().prompt("a {} running")
    made = clip_of_studio(studio, prompt, seed=0, index=0)
    assert made.shape == (4, 3, 32, 32)
    assert torch.isfinite(made).all()


def test_photos_for_a_recipe_that_learns_nothing_from_them_are_refused() -> None:
    with pytest.raises(PcsError, match="learns nothing from photos; leave out --photos"):
        narrowed(recipe.load("video/tune_a_video"), photos=True, clips=True)
