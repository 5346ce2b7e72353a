"""Trains the tiny base into a folder, in this process or in one that kills itself: `python -m tests.driver …`."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from modalities.core import artifact, personalize, recipe, trainer
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.component import Component
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.machine import Machine
from modalities.core.step import Batch, denoise
from modalities.core.studio import Studio

METHOD: dict[str, Any] = {
    "title": "two phases, every kind of component",
    "components": [
        {"textual_inversion": {"token": "<new>"}},
        {"lora": {"rank": 2, "text_encoder": 2}},
        {"prior_preservation": {"weight": 0.5}},
    ],
    "phases": [
        {"learn": {"textual_inversion": 0.01}, "steps": 4},
        {"learn": {"textual_inversion": 0.001, "lora": 0.01}, "steps": 8},
    ],
    "data": {"subject": "<new>", "flip": True},
    "train": {"batch": 2, "schedule": "cosine", "warmup": 2},
    "validation": {"every": 3, "prompts": ["a photo of {}", "a {} in the snow"], "images": 1, "patience": 2},
    "sample": {"steps": 2, "guidance": 2.0},
}


def machine(encoders: tuple[str, str], cache: Path) -> Machine:
    """The CPU, the tiny encoders, no network."""
    return Machine(choose("cpu"), Cache(cache), offline=True, subject_encoder=encoders[0], clip=encoders[1])


def method(base: Path, **changes: Any) -> recipe.Recipe:
    """The recipe above on a tiny base, with top-level sections replaced."""
    return recipe.parse(json.dumps(METHOD | {"backbone": str(base)} | changes), "test")


def train(
    folder: Path, base: Path, photos: Path, encoders: tuple[str, str], resume: bool = False, **changes: Any
) -> Artifact:
    """Personalize into `folder`."""
    chosen = method(base, **changes)
    concept = Concept.from_folder(photos, noun="dog", subject=chosen.data.subject)
    return personalize.personalize(chosen, concept, folder, machine(encoders, folder.parent / "cache"), resume=resume)


def losses_of(studio: Studio, part: Component, batch: Callable[[], Batch]) -> list[float]:
    """The loss of one component alone in 25 steps in which the subjects' words learn from it."""
    words = list(studio.learned_by("textual_inversion").values())
    optimizer, seen = torch.optim.Adam(words, lr=0.05), list[float]()
    for _ in range(25):
        items = batch()
        loss = part.loss(denoise(studio.backbone, items), items)
        assert loss is not None
        seen.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return seen


@contextmanager
def stopped_at(step: int) -> Generator[None]:
    """Inside, a trainer that is about to take `step`, counted from 0, is asked to stop, and does so after it."""
    advance = trainer.Trainer.advance

    def interrupted(self: trainer.Trainer) -> float:
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "advance", interrupted)
        yield


def die_when(where: str) -> None:
    """Arrange that this process is killed: "step 5", "checkpoint 2" (while writing it), "weights 2"."""
    what, number = where.split()
    calls = {"count": 0}

    def killing(original: Callable[..., Any], matches: Callable[..., bool]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keywords: Any) -> Any:
            result = original(*args, **keywords)
            if matches(*args):
                calls["count"] += 1
                if calls["count"] == int(number):
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    if what == "step":
        trainer.Trainer.advance = killing(trainer.Trainer.advance, lambda *_: True)
    else:
        # Killed after the file is renamed into place but before anything else: the worst moment.
        kept = killing(artifact.write_tensors, lambda path, *_: path.stem == what)
        personalize.write_tensors = kept


if __name__ == "__main__":
    folder, base, photos, subject, clip, where = sys.argv[1:]
    personalize.CHECKPOINT_SECONDS = 0.0
    die_when(where)
    train(Path(folder), Path(base), Path(photos), (subject, clip))
