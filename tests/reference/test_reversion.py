"""The steering loss and the times of ReVersion are those of its released functions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modalities.core.components.contrastive_steering import steering
from modalities.core.components.time_sampler import TimeSampler
from modalities.core.schedule import DiffusionSchedule

TOLD = json.loads((Path(__file__).parent / "reversion.json").read_text())


def test_steering_and_its_gradient() -> None:
    table = (0.1 * torch.sin(torch.arange(192.0) * 0.7)).reshape(12, 16)
    word = table[2:3].clone().requires_grad_()
    unit = torch.nn.functional.normalize(table, dim=-1)
    loss = steering(word, unit[3:7], unit[7:11], 0.07)
    assert float(loss.detach()) == pytest.approx(TOLD["loss"], rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, [word])
    expected = torch.tensor(TOLD["gradient"])
    assert float((gradient[0] - expected).norm() / expected.norm()) < 1e-5


def test_times() -> None:
    schedule = DiffusionSchedule({"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02})
    sampler = TimeSampler(density="cosine", skew=0.5)
    studio: Any = SimpleNamespace(backbone=SimpleNamespace(schedule=schedule))
    sampler.prepare(studio)
    shares = (sampler._upto / sampler._upto[-1])[99::100].diff(prepend=torch.zeros(1, dtype=torch.float64))
    assert shares.tolist() == pytest.approx(TOLD["tenths"], rel=2e-3)
