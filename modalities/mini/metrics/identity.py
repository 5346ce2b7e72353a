"""Whether it is this very individual, against the truth of the mini world, where any subject can be rendered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from modalities.core import media
from modalities.core.encoders import EMBEDDED
from modalities.core.evidence import Evidence
from modalities.core.metric import Absent, Metric, Scores
from modalities.mini.check import load_probe
from modalities.mini.probe import HEADS
from modalities.mini.world import CONTEXTS, Scene, Subject, render

STRANGERS = 4


class Identity(Metric):
    """Likeness on a scale of its own: 0 is a stranger of the class, 1 the subject, both rendered in every context."""

    title = "identity (truth)"
    axis = "subject"
    encoders = ("subject",)
    needs = ("references", "truth")

    def score(self, evidence: Evidence) -> Scores:
        subject = _subject(evidence)
        photos = evidence.references("subject")

        def likeness(features: Tensor) -> Tensor:
            return (features @ photos.T).mean(1)

        def rendered(one: Subject, seed: int) -> float:
            scenes = [Scene.random(seed * 100 + number, one, context) for number, context in enumerate(CONTEXTS)]
            pictures = [Image.fromarray(render(scene, 64).image) for scene in scenes]
            return float(likeness(evidence.encoder("subject")(pictures)).mean())

        strangers = [Subject.random(number, subject.class_name) for number in range(STRANGERS)]
        low = sum(rendered(one, seed) for seed, one in enumerate(strangers)) / STRANGERS
        high = rendered(subject, STRANGERS)
        values = (likeness(evidence.features("subject")) - low) / max(high - low, 1e-6)
        return Scores.of_pictures(values.tolist(), evidence.groups)


def _subject(evidence: Evidence) -> Subject:
    told: dict[str, Any] = _told(evidence)
    try:
        return Subject(**{name: tuple(value) if isinstance(value, list) else value for name, value in told.items()})
    except TypeError as error:
        raise Absent(f"the truth.jsonl beside the photos tells of no subject ({error}).") from error


def _told(evidence: Evidence) -> dict[str, Any]:
    if evidence.truth is None:
        raise Absent("needs photos of the mini world with their truth.jsonl, as `pcs world subject` writes them.")
    return evidence.truth.subject


def shares_right(evidence: Evidence, head: str, phrases: Mapping[str, tuple[str, ...]]) -> Scores:
    """1 for each picture in which the probe's `head` sees what the prompt names, else 0; NaN if it names nothing.

    Raises:
        Absent: the photos are not of the mini world, or no prompt names any of it.
    """
    _told(evidence)
    asked = [_named(picture.prompt or "", phrases) for picture in evidence.gallery.pictures]
    if not any(asked):
        raise Absent(f"needs prompts that name a {head} of the mini world.")
    probe, values = load_probe(EMBEDDED), []
    for images in evidence.batches():
        for image in images:
            wanted = asked[len(values)]
            if image is None or wanted is None:
                values.append(math.nan)
                continue
            with torch.no_grad():
                seen = int(probe(media.square(image, 64)[None])[head].argmax())
            values.append(float(HEADS[head][seen] == wanted))
    return Scores.of_pictures(values, evidence.groups)


def _named(prompt: str, phrases: Mapping[str, tuple[str, ...]]) -> str | None:
    """Which of the names a prompt has in it, the longest phrase first."""
    known = sorted(((phrase, name) for name, said in phrases.items() for phrase in said), key=lambda p: -len(p[0]))
    return next((name for phrase, name in known if phrase in prompt), None)
