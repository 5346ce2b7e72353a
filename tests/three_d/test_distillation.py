"""Score distillation: the gradient that the papers write down, the words for views, redrawing, and exact resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modalities.core import bases, recipe
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.errors import Interrupted, PcsError
from modalities.core.step import Batch, denoise
from modalities.core.studio import Studio
from modalities.three_d import dreambooth3d, session
from modalities.three_d.cameras import turntable
from modalities.three_d.components.orbit import Orbit
from modalities.three_d.components.score_distillation import ScoreDistillation, guided
from modalities.three_d.components.view_prompts import ViewPrompts
from modalities.three_d.pseudo_views import PseudoViews
from modalities.three_d.redraw import redraw
from modalities.three_d.trainer import SceneTrainer
from tests import driver

SCENE: dict[str, Any] = {
    "title": "a small scene",
    "modality": "three_d",
    "components": [
        {"nerf": {"resolution": 8, "channels": 2, "samples": 6, "sides": [8, 16]}},
        {"surroundings": None},
        {"orbit": None},
        {"view_prompts": None},
        {"score_distillation": {"guidance": 7.5, "first": [0.5, 0.9], "last": [0.1, 0.4]}},
        {"scene_regularizers": {"opacity": 1.0, "entropy": 1.0, "orientation": 0.5, "smoothness": 1.0}},
        {"reconstruction": None},
    ],
    "data": {"subject": "{noun}", "prompts": ["a photo of a {} in the snow", "a photo of a {} on the beach"]},
    "train": {"batch": 2, "weight_decay": 0},
    "phases": [
        {"learn": {"surroundings": 0.1}, "steps": 2},
        {"learn": {"nerf": 0.01, "surroundings": 0.01}, "steps": 6},
    ],
}
DOG = Concept("dog", "dog")


def scene(base: Path, **changes: Any) -> recipe.Recipe:
    return recipe.parse(json.dumps(SCENE | {"backbone": str(base)} | changes), "test")


def studio_of(chosen: recipe.Recipe, tmp_path: Path) -> Studio:
    backbone = bases.load(bases.resolve(chosen.backbone), choose("cpu"), offline=True)
    return Studio(backbone, DOG, chosen, training=True, cache=Cache(tmp_path / "cache"))


def pseudo(count: int = 3) -> PseudoViews:
    pictures = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return PseudoViews((pictures * 255).round() / 255, turntable(count), tuple(n % 2 for n in range(count)))


def batch_of(studio: Studio) -> Batch:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 16, 16, generator=generator, requires_grad=True)
    noise = torch.randn(2, 4, 16, 16, generator=generator)
    return Batch(latents, noise, torch.tensor([300, 600]), ("a dog",) * 2, (0, 1), torch.zeros(2, dtype=torch.bool))


def test_sds_is_sigma_squared_times_the_guided_noise_residual(base: Path, tmp_path: Path) -> None:
    studio = studio_of(scene(base), tmp_path)
    part = next(one for one in studio.components if isinstance(one, ScoreDistillation))
    batch = part.batch(batch_of(studio))
    with torch.no_grad():
        step = denoise(studio.backbone, batch)
    loss = part.loss(step, batch)
    assert loss is not None
    (gradient,) = torch.autograd.grad(loss, [batch.latents], retain_graph=True)
    with torch.no_grad():
        # Equation 3 with w = sigma^2; the base of this test predicts the noise.
        alphas = studio.backbone._pipeline.scheduler.alphas_cumprod[batch.t[:2]].view(-1, 1, 1, 1)
        predicted = guided(step.prediction[:2], step.prediction[2:], 7.5)
        expected = (1 - alphas) * (predicted - batch.noise[:2]) / 2
    # The latents are in the batch twice, asked and unasked; only the asked half is pulled.
    assert (gradient[:2] - expected).norm() / expected.norm() < 1e-5
    assert not gradient[2:].any()


def test_the_base_is_never_differentiated(base: Path, tmp_path: Path) -> None:
    studio = studio_of(scene(base), tmp_path)
    before = {name: value.clone() for name, value in studio.backbone.denoiser.state_dict().items()}
    trainer = SceneTrainer(studio)
    for _ in range(3):
        trainer.advance()
    after = studio.backbone.denoiser.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(value.grad is None for value in studio.backbone.denoiser.parameters())


def test_surroundings_learn_alone_in_the_first_phase_and_the_scene_after(base: Path, tmp_path: Path) -> None:
    studio = studio_of(scene(base), tmp_path)
    trainer, start = SceneTrainer(studio), studio.weights()
    trainer.advance()
    early = studio.weights()
    assert all(torch.equal(early[name], start[name]) for name in start if name.startswith("nerf."))
    assert not torch.equal(early["surroundings.maps"], start["surroundings.maps"])
    for _ in range(3):
        trainer.advance()
    assert not torch.equal(studio.weights()["nerf.planes"], start["nerf.planes"])


def test_times_move_from_the_first_span_to_the_last(base: Path, tmp_path: Path) -> None:
    studio = studio_of(scene(base), tmp_path)
    part, batch = next(one for one in studio.components if isinstance(one, ScoreDistillation)), batch_of(studio)
    early = torch.cat([part.times(replace(batch, positions=(n % 2, n))) for n in range(2)])
    late = torch.cat([part.times(replace(batch, positions=(14 + n, n))) for n in range(2)])
    assert early.min() >= 450
    assert late.max() <= 500


@pytest.mark.parametrize(
    ("azimuth", "elevation", "word"),
    [(350, 10, ", front view"), (95, 10, ", side view"), (265, 0, ", side view"), (180, 20, ", back view"),
     (45.0, 10, ""), (10, 70, ", overhead view")],
)  # fmt: skip
def test_words_say_where_the_camera_stands(azimuth: float, elevation: float, word: str) -> None:
    assert ViewPrompts(front=35, side=35, back=35).word(azimuth, elevation) == word


def test_azimuths_go_evenly_around_and_never_depend_on_the_batch(base: Path, tmp_path: Path) -> None:
    orbit = next(part for part in studio_of(scene(base), tmp_path).components if isinstance(part, Orbit))
    views = orbit.views(range(8))
    ordered = views.azimuth.sort().values
    assert (ordered[1:] - ordered[:-1]).max() < 80
    assert torch.equal(orbit.views([5]).azimuth, views.azimuth[5:6])
    assert torch.equal(orbit.views([5]).elevation, views.elevation[5:6])


def test_some_cameras_may_look_from_high_above(base: Path, tmp_path: Path) -> None:
    orbit = next(part for part in studio_of(scene(base), tmp_path).components if isinstance(part, Orbit))
    low = orbit.views(range(200))
    orbit.elevation, orbit.above, orbit.above_elevation = (0.0, 20.0), 0.25, (50.0, 60.0)
    views = orbit.views(range(200))
    high = views.elevation > 45
    assert 30 < high.sum() < 70
    assert views.elevation[high].min() > 49.9
    assert views.elevation[~high].max() < 20.1
    assert torch.equal(views.azimuth, low.azimuth)


def test_redrawing_by_a_base_that_knows_the_picture_gives_it_back(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = studio_of(scene(base), tmp_path).backbone
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    known = backbone.encode(picture).mean
    known = backbone.encode(picture).sample(torch.zeros_like(known)).detach()
    alphas = backbone._pipeline.scheduler.alphas_cumprod
    asked: list[int] = []

    def noise_in(noisy: torch.Tensor, t: torch.Tensor, _: object) -> torch.Tensor:
        asked.append(int(t[0]))
        alpha = alphas[t].view(-1, 1, 1, 1)
        return (noisy - alpha.sqrt() * known) / (1 - alpha).sqrt()

    monkeypatch.setattr(backbone, "predict", noise_in)
    noise = torch.randn(known.shape, generator=torch.Generator().manual_seed(1))
    drawn = redraw(backbone, picture, ["a dog"], noise, strength=0.6, steps=4, guidance=1.0)
    assert torch.allclose(drawn, backbone.decode(known), atol=1e-3)
    assert asked == sorted(asked, reverse=True)
    assert len(asked) == 4
    assert 590 <= asked[0] <= 610


def optimized(base: Path, folder: Path, encoders: tuple[str, str], **more: Any) -> dict[str, bytes]:
    machine = driver.machine(encoders, folder.parent / "cache")
    session.optimize(scene(base), DOG, folder, machine, pseudo=pseudo(), **more)
    return {name: (folder / name).read_bytes() for name in ("weights.safetensors", "metrics.jsonl")}


@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_scene_that_was_stopped_ends_with_the_same_bytes(
    base: Path, encoders: tuple[str, str], tmp_path: Path, stop_at: int
) -> None:
    whole = optimized(base, tmp_path / "whole", encoders)
    with driver.stopped_at(stop_at), pytest.raises(Interrupted):
        optimized(base, tmp_path / "stopped", encoders)
    with pytest.raises(PcsError, match="already holds a run"):
        optimized(base, tmp_path / "stopped", encoders)
    assert optimized(base, tmp_path / "stopped", encoders, resume=True) == whole


def test_a_scene_does_not_go_on_with_another_run_s_subject(
    base: Path, encoders: tuple[str, str], photos: Path, tmp_path: Path
) -> None:
    words = {"data": {"subject": "dog"}, "validation": {"every": 4, "images": 1, "prompts": ["a {}"]}}
    runs = [
        driver.train(tmp_path / name, base, photos, encoders, **words, train={"seed": seed}, phases=[],
                     components=[{"lora": {"rank": 2}}])
        for seed, name in enumerate(("one", "other"))
    ]  # fmt: skip
    machine = driver.machine(encoders, tmp_path / "cache")
    made = session.optimize(scene(base), DOG, tmp_path / "scene", machine, prior=runs[0])
    again = session.optimize(scene(base), DOG, tmp_path / "scene", machine, prior=runs[0], resume=True)
    assert again.folder == made.folder
    with pytest.raises(PcsError, match="the scene of another run's subject"):
        session.optimize(scene(base), DOG, tmp_path / "scene", machine, prior=runs[1], resume=True)


def test_pseudo_views_are_a_dataset_whose_pictures_may_be_deleted(tmp_path: Path) -> None:
    views = pseudo(3)
    views.write(tmp_path)
    again = PseudoViews.read(tmp_path)
    assert torch.equal(again.pictures, views.pictures)
    assert again.places == (0, 1, 0)
    frame = json.loads((tmp_path / "transforms.json").read_text())["frames"][1]
    x, y, z = views.views.matrices()[1][:3, 3]
    placed = torch.tensor(frame["transform_matrix"])
    assert torch.allclose(placed[:3, 3], torch.stack([x, -z, y]), atol=1e-6), "nerfstudio's world is z up"
    assert placed[2, 1] > 0.9, "and the picture's up is its up"
    (tmp_path / "images" / "001.png").unlink()
    assert PseudoViews.read(tmp_path).places == (0, 0)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(PcsError, match="has no pictures left"):
        PseudoViews.read(tmp_path)


@pytest.mark.parametrize("backbone", ["mini", "sd15"])
@pytest.mark.parametrize("name", sorted(name for name in recipe.available() if name.startswith("three_d/")))
def test_every_recipe_can_make_a_scene(name: str, backbone: str) -> None:
    chosen = recipe.load(name, backbone=backbone)
    made = dreambooth3d.scene_recipe(chosen, pseudo())
    assert {"nerf", "surroundings", "orbit", "view_prompts", "score_distillation"} <= {
        part.name for part in made.components
    }
    assert all(set(phase.learn) <= {part.name for part in made.components} for phase in made.phases)
    if name == "three_d/dreambooth3d":
        assert dreambooth3d.subject_of(chosen)
