"""What changes score distillation: Perp-Neg, interval scores, variational scores, rescaled guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modalities.core.step import Batch, denoise
from modalities.core.studio import Studio
from modalities.three_d.components.interval_score import IntervalScore
from modalities.three_d.components.perp_neg import PerpNeg, perpendicular
from modalities.three_d.components.score_distillation import ScoreDistillation, rescaled
from modalities.three_d.components.variational_score import VariationalScore
from modalities.three_d.part import part_of
from modalities.three_d.trainer import SceneTrainer
from tests.three_d.test_distillation import SCENE, batch_of, scene, studio_of


def with_part(base: Path, tmp_path: Path, *parts: dict[str, Any], **changes: Any) -> Studio:
    return studio_of(scene(base, components=[*SCENE["components"], *parts], **changes), tmp_path)


def gradient_of(studio: Studio, batch: Batch) -> torch.Tensor:
    part = part_of(studio, ScoreDistillation)
    whole = part.batch(batch)
    with torch.no_grad():
        step = denoise(studio.backbone, whole)
    return torch.autograd.grad(part.loss(step, whole), [batch.latents])[0]


def test_perp_neg_asks_for_the_other_views_and_never_turns_back(base: Path, tmp_path: Path) -> None:
    studio = with_part(base, tmp_path, {"perp_neg": None})
    part, batch = part_of(studio, PerpNeg), batch_of(studio)
    whole = part_of(studio, ScoreDistillation).batch(batch)
    assert len(whole.prompts) == 8
    assert {prompt.removeprefix("a dog, ") for prompt in whole.prompts[4:]} <= {"front view", "side view"}
    direction, away = torch.randn(2, 4, 4, 4), [torch.randn(2, 4, 4, 4) for _ in range(2)]
    turned = part.towards(direction, away, batch)
    assert not torch.equal(turned, direction)
    along = (turned * direction).sum((1, 2, 3)) / direction.square().sum((1, 2, 3))
    assert torch.allclose(along, torch.ones(2), atol=1e-5), "only the part at right angles is taken away"
    assert perpendicular(direction, direction).abs().max() < 1e-5


def test_an_interval_score_is_the_difference_of_two_times_on_one_path(base: Path, tmp_path: Path) -> None:
    studio = with_part(base, tmp_path, {"interval_score": {"interval": 0.2, "steps": 2}})
    part, batch, schedule = part_of(studio, IntervalScore), batch_of(studio), studio.backbone.schedule
    started = part.start(batch, "")
    assert torch.equal(started.noise, part.start(batch, "").noise), "nothing is drawn"
    # Inverted with the base's own answer at the earlier time, one DDIM step back from the later one leads there.
    earlier = part.reference(batch)
    assert earlier is not None
    noisy = schedule.noised(batch.latents, started.noise, batch.t)
    own = (noisy - schedule.noised(earlier, torch.zeros_like(noisy), batch.t)) / schedule.noised(
        torch.zeros_like(noisy), torch.ones_like(noisy), batch.t
    )
    before = schedule.noised(earlier, own, batch.t - 200)
    again = schedule.clean(
        before, studio.backbone.predict(before, batch.t - 200, studio.backbone.conditioning(("", ""))), batch.t - 200
    )
    assert torch.allclose(again, earlier, atol=1e-3)


def test_an_interval_score_is_nought_for_what_the_base_sees_already(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = with_part(base, tmp_path, {"interval_score": None}, train={"batch": 2, "weight_decay": 0})
    batch, schedule = batch_of(studio), studio.backbone.schedule

    def knows(noisy: torch.Tensor, t: torch.Tensor, _: object) -> torch.Tensor:
        known = batch.latents.detach().repeat(len(noisy) // 2, 1, 1, 1)
        nothing = torch.zeros_like(noisy)
        return (noisy - schedule.noised(known, nothing, t)) / schedule.noised(nothing, torch.ones_like(noisy), t)

    monkeypatch.setattr(studio.backbone, "predict", knows)
    assert gradient_of(studio, batch).abs().max() < 1e-4
    monkeypatch.setattr(studio.backbone, "predict", lambda noisy, t, said: knows(noisy, t, said) + 0.1)
    assert gradient_of(studio, batch).abs().max() > 1e-3


def test_a_variational_score_learns_the_renders_and_leaves_the_base_alone(base: Path, tmp_path: Path) -> None:
    phases = [{"learn": {"nerf": 1e-6, "variational_score": 0.02}, "steps": 40}]
    studio = with_part(base, tmp_path, {"variational_score": {"rank": 4}}, phases=phases)
    before = {name: value.clone() for name, value in studio.backbone.denoiser.state_dict().items()}
    part, batch = part_of(studio, VariationalScore), batch_of(studio)
    plain = gradient_of(studio, batch)
    trainer = SceneTrainer(studio)

    def error() -> float:
        whole = trainer.batch()
        with torch.no_grad():
            found = part.loss(denoise(studio.backbone, whole), whole)
        assert found is not None
        return float(found)

    trainer.advance()
    early = error()
    for _ in range(39):
        trainer.advance()
    trainer.step = 1
    late = error()
    assert late < 0.95 * early, "at the same noise and times the adapter knows the renders better"
    after = studio.backbone.denoiser.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not torch.allclose(gradient_of(studio, batch), plain), "what it learned is taken off"
    names = set(studio.weights())
    assert any(name.startswith("variational_score.") and name.endswith(".up") for name in names)


def test_at_its_start_the_adapter_is_the_unguided_base(base: Path, tmp_path: Path) -> None:
    parts = [part for part in SCENE["components"] if "score_distillation" not in part]
    parts += [{"score_distillation": {"guidance": 1}}, {"variational_score": None}]
    studio = studio_of(scene(base, components=parts), tmp_path)
    assert gradient_of(studio, batch_of(studio)).abs().max() < 1e-5


def test_rescaled_guidance_keeps_the_spread_of_the_unguided_picture() -> None:
    plain, wild = torch.randn(2, 4, 8, 8), 7 * torch.randn(2, 4, 8, 8)
    axes = (1, 2, 3)
    assert torch.allclose(rescaled(wild, plain, 1.0).std(axes), plain.std(axes), rtol=1e-4)
    assert torch.equal(rescaled(wild, plain, 0.0), wild)
    assert (rescaled(wild, plain, 0.5).std(axes) < wild.std(axes)).all()
