"""Every shipped image recipe runs: it learns what it says, leaves the base alone otherwise, and generates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modalities.core import generate, personalize, recipe
from modalities.core.concept import Concept
from tests import driver, tiny

NAMES = sorted(name for name in recipe.available() if name.startswith("image/"))
SHORT = {
    "train": {"steps": 2, "batch": 1, "gradient_checkpointing": False},
    "validation": {"every": 1, "prompts": ["a photo of {}"], "images": 1},
    "sample": {"steps": 1},
}


def test_there_are_image_recipes() -> None:
    assert {"image/dreambooth", "image/dreambooth_lora", "image/pivotal_tuning", "image/textual_inversion"} <= set(
        NAMES
    )


@pytest.mark.parametrize("name", NAMES)
def test_recipe_trains_and_generates(name: str, base: Path, encoders: tuple[str, str], tmp_path: Path) -> None:
    short = recipe.load(name, SHORT, backbone=str(base))
    if short.phases:
        short = short.model_copy(update={"phases": [phase.model_copy(update={"steps": 1}) for phase in short.phases]})
    if (prior := short.component("prior_preservation")) and hasattr(prior, "count"):
        prior.count = 2
    if (moved := short.component("geometric_augmentation")) and hasattr(moved, "count"):
        moved.count = 3
    nouns = ("dog", "cat") if short.component("cut_mix") else ("dog",)
    subjects: list[Concept] = []
    for number, noun in enumerate(nouns, start=1):
        photos = tiny.photos(tmp_path / noun, seed=number)
        for path in sorted(photos.iterdir()):
            path.with_suffix(".txt").write_text("a cat {} a mug")
        subjects.append(Concept.from_folder(photos, noun=noun, subject=short.data.subject, number=number))
    concept = Concept.together(subjects)
    machine = driver.machine(encoders, tmp_path / "cache")
    run = personalize.personalize(short, concept, tmp_path / "run", machine)
    weights = run.weights()
    assert weights
    assert all(torch.isfinite(value).all() for value in weights.values())
    studio = run.studio(machine)
    learned = {name: value.clone() for name, value in studio.weights().items()}
    assert all(torch.equal(learned[name], weights[name]) for name in weights)
    picture = generate.of_studio(studio, run.concept().subjects[0].prompt("a {} in the snow"), seed=0, index=0)
    assert picture.size == (32, 32)
    written = {path.name for path in run.portable.iterdir()} if run.portable.is_dir() else set[str]()
    whole = not {"token_mapper", "token_table", "rank_one_edit"} & {part.name for part in short.components}
    assert whole or not written, "other tools would get half of what was learned"
