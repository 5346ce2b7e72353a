"""Our score distillation is threestudio's on the same tensors; threestudio.json says how the numbers were recorded."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modalities.core.schedule import DiffusionSchedule
from modalities.core.step import Batch, Step
from modalities.three_d.cameras import Views
from modalities.three_d.components.orbit import Orbit
from modalities.three_d.components.perp_neg import PerpNeg
from modalities.three_d.components.score_distillation import ScoreDistillation
from modalities.three_d.components.view_prompts import ViewPrompts
from modalities.three_d.part import part_of
from tests.three_d.test_distillation import SCENE, scene, studio_of

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "threestudio.json").read_text())
COUNT = len(RECORDED["t"])


def unpacked(text: str) -> torch.Tensor:
    values = np.frombuffer(base64.b64decode(text), "<f4").copy()
    return torch.from_numpy(values).view(-1, *RECORDED["shape"][1:])


@pytest.mark.parametrize("kind", ["plain", "perp_neg"])
def test_the_gradient_of_score_distillation_is_threestudios(
    kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its scale s is s + 1 as libraries count it, but s with Perp-Neg.
    scale = RECORDED["scale"][kind] + (kind == "plain")
    parts = [part for part in SCENE["components"] if "score_distillation" not in part]
    parts += [{"score_distillation": {"guidance": scale}}] + [{"perp_neg": None}] * (kind == "perp_neg")
    studio = studio_of(scene(base, components=parts), tmp_path)
    monkeypatch.setattr(studio.backbone, "schedule", DiffusionSchedule(RECORDED["scheduler"]))
    azimuth, elevation = torch.tensor(RECORDED["azimuth"]), torch.tensor(RECORDED["elevation"])
    cameras = Views(azimuth, elevation, torch.full((COUNT,), 3.0), torch.full((COUNT,), 40.0))
    monkeypatch.setattr(Orbit, "views", lambda *_: cameras)
    latents, noise = unpacked(RECORDED["latents"]).requires_grad_(), unpacked(RECORDED["noise"])
    answers = unpacked(RECORDED["predictions"])
    text, nothing, away = answers[:COUNT], answers[COUNT : 2 * COUNT], answers[2 * COUNT :]
    blocks = [text, nothing] + [away[0::2], away[1::2]] * (kind == "perp_neg")
    one = Batch(
        latents, noise, torch.tensor(RECORDED["t"]), ("a dog",) * COUNT, tuple(range(COUNT)), torch.zeros(COUNT).bool()
    )
    batch = one
    for _ in blocks[1:]:
        batch = batch.joined(one)
    said = torch.cat(blocks)
    step = Step(batch.latents.detach(), batch.noise, batch.t, said, said)
    loss = part_of(studio, ScoreDistillation).loss(step, batch)
    (gradient,) = torch.autograd.grad(loss, [latents])
    expected = unpacked(RECORDED["gradient"][kind])
    apart = (gradient * COUNT - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert apart.max() < 1e-5


def test_words_and_weights_of_views_are_threestudios(base: Path, tmp_path: Path) -> None:
    parts = [part for part in SCENE["components"] if "view_prompts" not in part]
    studio = studio_of(scene(base, components=[*parts, {"view_prompts": None}, {"perp_neg": None}]), tmp_path)
    words, perp_neg = part_of(studio, ViewPrompts), part_of(studio, PerpNeg)
    rows = zip(RECORDED["azimuth"], RECORDED["elevation"], RECORDED["views"], RECORDED["weights"], strict=True)
    for azimuth, elevation, view, weights in rows:
        assert words.word(azimuth % 360, elevation) == words.words[view]
        ours = [-weight for _, weight in perp_neg.away_from(azimuth % 360, elevation)]
        assert ours == pytest.approx(weights, rel=1e-5, abs=1e-6)
