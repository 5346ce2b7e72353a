"""Our passes give the losses and the optimizer step of MotionDirector's own function on the same tensors."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modalities.core.schedule import DiffusionSchedule
from modalities.core.step import Batch
from modalities.core.trainer import Trainer
from modalities.video.components.appearance_debiased_loss import AppearanceDebiasedLoss

TOLD = json.loads((Path(__file__).parent / "motiondirector.json").read_text())
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


class Formula(nn.Module):
    """The net of the recorded runs: a spatial part that sees pixels, a temporal one that sees frames."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.temporal = nn.Parameter(torch.tensor([0.1, 0.4]))

    def forward(self, x: Tensor, temporal: float) -> Tensor:
        y = 0.5 * x + self.spatial[0] * x.sin() + self.spatial[1] * x**2
        return y + temporal * (self.temporal[0] * x.mean(2, keepdim=True) + self.temporal[1] * x.roll(1, 2))


class Passes(Trainer):
    """The core's loss on a base that is a formula."""

    def __init__(self, net: Formula, kind: str, anchor: int) -> None:
        self.net, self.temporal = net, 0.0
        backbone = SimpleNamespace(
            schedule=DiffusionSchedule(SCHEDULE | {"prediction_type": kind}),
            conditioning=lambda _prompts: None,
            predict=lambda noisy, _t, _words: self.net(noisy, self.temporal),
        )
        draws = SimpleNamespace(pick=lambda _purpose, _position, _count: anchor)
        self.studio: Any = SimpleNamespace(backbone=backbone, draws=draws)
        self.debiased = AppearanceDebiasedLoss()
        self.debiased._studio = self.studio


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_losses_and_one_step_equal_those_of_motiondirector(kind: str) -> None:
    told = TOLD["runs"][kind]
    latents = torch.randn(1, 4, 8, 6, 6, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(1, 4, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    assert float(noise.double().sum()) == pytest.approx(told["noise_checksum"])
    t, nobody = torch.tensor([told["timestep"]]), torch.zeros(1, dtype=torch.bool)
    frame = slice(told["frame"], told["frame"] + 1)
    net = Formula()
    passes = Passes(net, kind, told["anchor"])
    passes.parts = []
    still = Batch(latents[:, :, frame], noise[:, :, frame], t, ("",), (0,), nobody)
    spatial = passes.loss(still)
    passes.parts, passes.temporal = [passes.debiased], 1.0
    temporal = passes.loss(Batch(latents, noise, t, ("",), (0,), nobody))
    assert float(spatial.detach()) == pytest.approx(told["loss_spatial"], rel=1e-5)
    assert float(temporal) == pytest.approx(told["loss_temporal"], rel=1e-5)
    net.spatial.grad = torch.autograd.grad(spatial, net.spatial)[0]
    net.temporal.grad = torch.autograd.grad(temporal, net.temporal)[0]
    # One optimizer with two groups is what two optimizers are, as AdamW treats every number on its own.
    groups = [{"params": [net.spatial]}, {"params": [net.temporal]}]
    torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8, foreach=True).step()
    assert net.spatial.tolist() == pytest.approx(told["spatial"], rel=1e-5)
    assert net.temporal.tolist() == pytest.approx(told["temporal"], rel=1e-5)
