"""The partial DreamBooth ends when its views become alike, and keeps the weights from before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modalities.core import personalize, recipe
from modalities.core.artifact import Artifact
from modalities.core.concept import Concept
from modalities.core.errors import Interrupted
from modalities.three_d import partial as module
from modalities.three_d.partial import PartialSession, view_diversity
from tests import driver
from tests.three_d.test_command import IMAGE

PROMPTS = ("a dog, front view", "a dog, back view")


def learn(
    base: Path, photos: Path, folder: Path, encoders: tuple[str, str], found: list[float], **more: Any
) -> Artifact:
    """Ten steps with a look at every second, at which the views are as diverse as `found` says."""
    values: Iterator[float] = iter(found)
    changes = {"train": {"steps": 10}, "validation": {"every": 2, "select": "last"}}
    chosen = recipe.load(str(_image(folder)), changes, backbone=str(base))
    concept = Concept.from_folder(photos, noun="dog", subject=chosen.data.subject)

    def session(*given: Any) -> PartialSession:
        return PartialSession(*given, keep=0.5, prompts=PROMPTS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "view_diversity", lambda *_: next(values))
        machine = driver.machine(encoders, folder.parent / "cache")
        return personalize.personalize(chosen, concept, folder, machine, session=session, **more)


def _image(folder: Path) -> Path:
    import json

    path = folder.parent / "image.yaml"
    path.write_text(json.dumps(IMAGE), encoding="utf-8")
    return path


def test_it_keeps_the_last_step_whose_views_are_diverse(
    base: Path, photos: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    run = learn(base, photos, tmp_path / "run", encoders, [1.0, 0.8, 0.6, 0.3])
    assert run.about()["kept_step"] == 4
    assert run.about()["steps"] == 6, "and learns no further"
    never = learn(base, photos, tmp_path / "never", encoders, [1.0, 0.2])
    assert never.about()["kept_step"] == 2, "of none that is, the first"
    whole = learn(base, photos, tmp_path / "whole", encoders, [1.0, 0.9, 0.9, 0.9, 0.9, 0.9])
    assert whole.about()["kept_step"] == 10
    assert not torch.equal(*(next(iter(one.weights().values())) for one in (run, whole)))


def test_a_stopped_one_goes_on_with_what_it_measured(
    base: Path, photos: Path, encoders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = PartialSession._advance

    def interrupted(self: PartialSession) -> None:
        advance(self)
        if self.trainer.step == 3:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(PartialSession, "_advance", interrupted)
        with pytest.raises(Interrupted):
            learn(base, photos, tmp_path / "run", encoders, [1.0, 0.8])
    run = learn(base, photos, tmp_path / "run", encoders, [0.6, 0.3], resume=True)
    assert run.about()["kept_step"] == 4
    plain = learn(base, photos, tmp_path / "plain", encoders, [1.0, 0.8, 0.6, 0.3])
    assert (run.folder / "weights.safetensors").read_bytes() == (plain.folder / "weights.safetensors").read_bytes()


def test_diversity_is_that_of_the_two_views_most_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 1, 2]), 4).float()
    monkeypatch.setattr(module.generate, "previews", lambda *_: [])
    found: Any = lambda _: seen  # noqa: E731
    studio: Any = None
    # Views 2 and 3 share one of their two pictures, the others none.
    assert view_diversity(studio, found, ("front", "side", "back"), 2) == pytest.approx(0.5)
