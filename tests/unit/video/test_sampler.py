"""The sampler finds what a perfect model sees, on every kind of schedule, and inversion finds the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from modalities.core.backbone import Backbone, Conditioning
from modalities.core.recipe import Sample
from modalities.core.schedule import DiffusionSchedule, FlowSchedule, Schedule
from modalities.video.sampler import clips_from, inverted

DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = {
    "epsilon": lambda: DiffusionSchedule(DIFFUSION | {"prediction_type": "epsilon"}),
    "v_prediction": lambda: DiffusionSchedule(DIFFUSION | {"prediction_type": "v_prediction"}),
    "flow": lambda: FlowSchedule({"shift": 3.0}),
}
MEAN, SPREAD = 2.0, 0.5


class Gaussian(Backbone):
    """A model that knows its data, of mean 2 and standard deviation 0.5, exactly."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.device = schedule, torch.device("cpu")

    @classmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> Gaussian:
        raise NotImplementedError

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning({"words": torch.zeros(len(prompts), 1)})

    def conditioning(self, prompts: Sequence[str]) -> Conditioning:
        return self.embed(prompts)

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        one = torch.ones(len(noisy), *[1] * (noisy.ndim - 1))
        signal, noise = self.schedule.noised(one, 0 * one, t), self.schedule.noised(0 * one, one, t)
        share = signal * SPREAD**2 / (signal**2 * SPREAD**2 + noise**2)
        clean = MEAN + share * (noisy - signal * MEAN)
        return self.schedule.target(clean, (noisy - signal * clean) / noise, t)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_samples_are_of_the_distribution_that_the_model_knows(kind: str) -> None:
    start = torch.randn(1, 4, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    made = clips_from(Gaussian(SCHEDULES[kind]()), start, ["a dog"], Sample(steps=20, guidance=2.0))
    # The noisiest time of a diffusion still holds 7 % of the signal, which noise alone does not.
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.1)
    assert float(made.std()) == pytest.approx(SPREAD, rel=0.12)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_inverse_leads_to_noise_and_sampling_leads_back(kind: str) -> None:
    model = Gaussian(SCHEDULES[kind]())
    clip = MEAN + SPREAD * torch.randn(1, 4, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    noise = inverted(model, clip, [""], 60)
    assert float(noise.std()) == pytest.approx(1, rel=0.15)
    back = clips_from(model, noise, [""], Sample(steps=60, guidance=1.0))
    assert float((back - clip).square().mean().sqrt()) < 0.15 * SPREAD
