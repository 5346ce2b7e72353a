"""Components that change what a step looks at: times, weights, masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from modalities.core import bases
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.errors import PcsError
from modalities.core.step import denoise
from modalities.core.studio import Studio
from modalities.core.trainer import Trainer
from tests import driver, tiny


def _studio(base: Path, tmp_path: Path, components: list[Any], photos: Path | None = None, **data: Any) -> Studio:
    recipe = driver.method(
        base, phases=[], data={"subject": "sks {noun}", **data}, train={"batch": 4}, components=components
    )
    concept = Concept.from_folder(photos or tiny.photos(tmp_path / "photos"), noun="dog")
    backbone = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    return Studio(backbone, concept, recipe, training=True, cache=Cache(tmp_path / "cache"))


def _times(studio: Studio, steps: int = 400) -> torch.Tensor:
    trainer, found = Trainer(studio), list[torch.Tensor]()
    for trainer.step in range(steps):
        found.append(trainer.batch().t)
    return torch.cat(found)


def _shares(t: torch.Tensor, parts: int = 4) -> list[float]:
    return (torch.bincount((t * parts) // 1000, minlength=parts) / len(t)).tolist()


def test_the_cosine_sampler_favours_noise_as_its_paper_says(base: Path, tmp_path: Path) -> None:
    t = _times(_studio(base, tmp_path, [{"time_sampler": {"density": "cosine"}}]))
    # The integral of 1 - cos(pi x) / 2 over each quarter.
    edges = torch.linspace(0, 1, 5)
    expected = (edges - 0.5 * torch.sin(torch.pi * edges) / torch.pi).diff()
    assert _shares(t) == pytest.approx(expected.tolist(), abs=0.02)


def test_log_snr_is_normal(base: Path, tmp_path: Path) -> None:
    studio = _studio(base, tmp_path, [{"time_sampler": {"density": "log_snr", "mean": -2.0, "std": 1.0}}])
    log_snr = studio.backbone.schedule.signal_to_noise(_times(studio)).log()
    assert float(log_snr.mean()) == pytest.approx(-2.0, abs=0.05)
    assert float(log_snr.std()) == pytest.approx(1.0, abs=0.07)


def test_an_interval_holds_all_times(base: Path, tmp_path: Path) -> None:
    t = _times(_studio(base, tmp_path, [{"time_sampler": {"low": 0.5, "high": 0.75}}]), 100)
    assert t.min() >= 500 and t.max() <= 750
    with pytest.raises(PcsError, match="must be below"):
        _studio(base, tmp_path, [{"time_sampler": {"low": 0.5, "high": 0.5}}])


def test_times_of_a_flow_base_are_drawn_from_its_own(tmp_path: Path) -> None:
    base = tiny.stable_diffusion_3(tmp_path / "sd3")
    studio = _studio(base, tmp_path, [{"time_sampler": {"density": "log_snr", "mean": -2.0, "std": 1.0}}])
    t = Trainer(studio).batch().t
    assert torch.isin(t, studio.backbone.schedule.times).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weighs_errors_of_the_clean_picture(prediction: str, tmp_path: Path) -> None:
    base = tiny.stable_diffusion(tmp_path / "sd", prediction_type=prediction)
    studio = _studio(base, tmp_path, [{"min_snr": {"gamma": 5.0}}])
    batch, schedule = Trainer(studio).batch(), studio.backbone.schedule
    step = denoise(studio.backbone, batch)
    noisy = schedule.noised(batch.latents, batch.noise, batch.t)
    off = (schedule.clean(noisy, step.prediction, batch.t) - batch.latents).square().flatten(1).mean(1)
    expected = schedule.signal_to_noise(batch.t).clamp(max=5.0) * off
    assert torch.allclose(step.error, expected, rtol=1e-3)


def test_min_snr_is_not_for_flow(tmp_path: Path) -> None:
    with pytest.raises(PcsError, match="flow"):
        _studio(tiny.stable_diffusion_3(tmp_path / "sd3"), tmp_path, [{"min_snr": {}}])


@pytest.fixture
def masked(tmp_path: Path) -> tuple[Path, Path]:
    """Photos, and masks that are white on the left half."""
    photos, masks = tiny.photos(tmp_path / "photos"), tmp_path / "masks"
    masks.mkdir()
    for path in sorted(photos.iterdir()):
        size = Image.open(path).size
        mask = Image.new("L", size, 0)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        mask.save(masks / f"{path.stem}.png")
    return photos, masks


def test_what_lies_outside_the_mask_is_not_learned(base: Path, tmp_path: Path, masked: tuple[Path, Path]) -> None:
    photos, masks = masked
    components = [{"masked_loss": {"masks": str(masks)}}, {"prior_preservation": {}}]
    studio = _studio(base, tmp_path, components, photos, flip=True)
    batch = Trainer(studio).batch()
    assert batch.weight is not None
    own = batch.weight[~batch.is_prior]
    assert torch.allclose(own.flatten(1).mean(1), torch.ones(len(own)))
    assert torch.equal(batch.weight[batch.is_prior], own), "the class is preserved where the subject is learned"
    half = own.shape[-1] // 2
    lefts = [float(row[..., :half].sum() / row.sum()) for row in own]
    assert all(not 0.1 < left < 0.9 for left in lefts)
    assert min(lefts) < 0.1 and max(lefts) > 0.9, "mirrored photos have mirrored masks"
    step = denoise(studio.backbone, batch)
    assert torch.allclose(step.error[0], ((step.prediction - step.target).square() * batch.weight)[0].mean())


def test_the_alpha_channel_is_a_mask(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for number in range(3):
        picture = Image.effect_noise((64, 64), 80 + number).convert("RGBA")
        picture.putalpha(Image.new("L", (64, 64), 0))
        picture.paste((200, 20, 20, 255), (0, 0, 64, 32))
        picture.save(folder / f"{number}.png")
    weight = Trainer(_studio(base, tmp_path, [{"masked_loss": {"background": 0.1}}], folder)).batch().weight
    assert weight is not None
    half = weight.shape[2] // 2
    assert float(weight[0, 0, -1, 0] / weight[0, 0, 0, 0]) == pytest.approx(0.1)
    assert weight[:, :, :half].min() > weight[:, :, half + 1 :].max()


def test_masks_that_do_not_fit_are_named(base: Path, tmp_path: Path, masked: tuple[Path, Path]) -> None:
    photos, masks = masked
    component = [{"masked_loss": {"masks": str(masks)}}]
    first = sorted(masks.iterdir())[0]
    Image.new("L", (7, 9)).save(first)
    with pytest.raises(PcsError, match=r"0\.png: is|as large as"):
        _studio(base, tmp_path, component, photos)
    Image.new("L", Image.open(sorted(photos.iterdir())[0]).size).save(first)
    with pytest.raises(PcsError, match="is empty"):
        _studio(base, tmp_path, component, photos)
    first.unlink()
    with pytest.raises(PcsError, match="has no mask for"):
        _studio(base, tmp_path, component, photos)
    with pytest.raises(PcsError, match="no alpha channel"):
        _studio(base, tmp_path, [{"masked_loss": {}}], photos)


def test_every_photo_has_its_own_caption(base: Path, tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path / "photos")
    paths = sorted(photos.iterdir())
    for number, path in enumerate(paths):
        path.with_suffix(".txt").write_text(f"{{}} on chair {number}\n")
    studio = _studio(base, tmp_path, [{"captions": {}}, {"prior_preservation": {}}], photos, flip=True)
    trainer = Trainer(studio)
    batch = trainer.batch()
    for position, prompt in zip(batch.positions, batch.prompts[:4], strict=False):
        photo = studio.draws.pick("photo", position, 2 * len(paths)) // 2
        assert prompt == f"sks {{noun}} on chair {photo}".replace("{noun}", "dog")
    assert set(batch.prompts[4:]) == {"a photo of dog"}
    paths[0].with_suffix(".txt").write_text("a chair")
    with pytest.raises(PcsError, match="exactly once"):
        _studio(base, tmp_path, [{"captions": {}}], photos)
    paths[1].with_suffix(".txt").unlink()
    paths[0].with_suffix(".txt").unlink()
    with pytest.raises(PcsError, match=f"{paths[0].name}, {paths[1].name}"):
        _studio(base, tmp_path, [{"captions": {}}], photos)


def test_a_caption_of_the_base_is_added_to_the_prompts_of_its_photo(base: Path, tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path / "photos")
    words = {"places": ["on a chair", "in a tree"], "views": [", front view"]}
    parts = [{"captions": {"source": "base", **words}}, {"prior_preservation": {}}]
    studio = _studio(base, tmp_path, parts, photos)
    captions, prompts = studio.components[0], ("a photo of sks dog", "a sks dog")
    said = [[captions.said(number, prompt) for prompt in prompts] for number in range(3)]
    for of_photo, of_other in said:
        tail = of_photo.removeprefix(prompts[0])
        assert tail in {place + view for place in ("", " on a chair", " in a tree") for view in ("", ", front view")}
        assert of_other == prompts[1] + tail
    batch = Trainer(studio).batch()
    for position, prompt in zip(batch.positions, batch.prompts[:4], strict=False):
        assert prompt == said[studio.photo_at(position)][0]
    assert set(batch.prompts[4:]) == {"a photo of dog"}
    assert captions.reads(studio.concept) == []
    # Asked once: a second studio takes the answers from the cache.
    again = _studio(base, tmp_path, parts, photos).components[0]
    assert [again.said(number, "") for number in range(3)] == [captions.said(number, "") for number in range(3)]
