"""The parts of a protection do what they say: views, budget, gradients, surrogates, programs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.core import bases, media, recipe
from modalities.core.concept import Concept
from modalities.core.draws import generator
from modalities.core.errors import PcsError
from modalities.core.step import denoise
from modalities.core.studio import Studio
from protect import budget, lossy, objective, picture, purifiers, times, views
from protect.cloak import Cloak
from protect.ensemble import Ensemble
from protect.erasure import looking
from protect.gradient import Question, of_pixels
from protect.recipe import Ascent, Budget, Protection, Term, Views
from protect.surrogate import Surrogate
from tests import driver

SHIPPED = sorted(name for name in recipe.available() if name.startswith("protect/"))
LORA = {"components": [{"lora": {"rank": 2}}], "train": {"learning_rate": 1.0e-2, "batch": 2}}


def protection(base: Path, **changes: Any) -> Protection:
    plain = {"title": "test", "modality": "protect", "backbone": str(base), "data": {"subject": "{noun}"}}
    made = recipe.parse(json.dumps(plain | {"ascent": {"batch": 4}} | changes), "test")
    assert isinstance(made, Protection)
    return made


def cloak_of(made: Protection, folder: Path, saved: int | None = None, phrase: str = "mug") -> Cloak:
    machine = driver.machine(("", ""), folder.parent / "cache")
    backbone = bases.load(bases.resolve(made.backbone), machine.device, offline=True)
    paths = sorted(folder.glob("*.png"))
    concept = Concept("mug", phrase, (media.read_photo(paths[0]),))
    studio = Studio(backbone, concept, made, training=True, cache=machine.cache)
    return Cloak([picture.read(path) for path in paths], [saved] * len(paths), made, Surrogate(studio))


def value(cloak: Cloak, which: str) -> float:
    """The objective's mean over the same times and noises, of the photos as they are or were."""
    deltas = [canvas.delta for canvas in cloak.canvases]
    if which == "originals":
        for canvas in cloak.canvases:
            canvas.delta = torch.zeros_like(canvas.delta)
    rows, found = list(range(len(cloak.canvases))), []
    for number in range(6):
        chosen = [views.PLAIN for _ in rows]
        pixels, _ = cloak._seen(rows, chosen, "protected")  # pyright: ignore[reportPrivateUsage]
        question = cloak._question(rows, chosen, 10_000 + number)  # pyright: ignore[reportPrivateUsage]
        with torch.no_grad():
            posterior = cloak.backbone.encode(pixels)
            with looking(cloak.backbone, question.prompts, question.identifier) as looks:
                step = denoise(cloak.backbone, question.batch(posterior.sample(question.normal)))
            seen = objective.Seen(posterior, question.original, question.target, step, cloak.backbone.schedule, looks)
            found.append(float(objective.total(cloak.recipe.objective, seen)))
    for canvas, delta in zip(cloak.canvases, deltas, strict=True):
        canvas.delta = delta
    return sum(found) / len(found)


# -- views ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(301, 203), (203, 301), (64, 64), (40, 90), (1000, 64)])
def test_the_plain_view_is_what_trainers_make(size: tuple[int, int]) -> None:
    image = tiny_picture(size)
    levels = media.to_pixels(image) * 255
    ours = views.seen(levels, views.PLAIN, 64)
    theirs = media.square(image, 64)
    # Pillow rounds to whole levels between the two directions.
    assert float((ours - theirs).abs().mean()) * 255 < 1.0
    assert float((ours - theirs).abs().max()) * 255 < 6.0


def tiny_picture(size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_the_differentiable_jpeg_is_jpeg(quality: int) -> None:
    image, data = tiny_picture((83, 61)), io.BytesIO()
    image.save(data, "JPEG", quality=quality, subsampling=0)
    levels = (media.to_pixels(image) * 255).requires_grad_()
    ours = lossy.jpeg(levels[None], quality)[0]
    theirs = media.to_pixels(Image.open(data)) * 255
    # libjpeg also rounds the colours it converts between.
    assert float((ours - theirs).abs().mean()) < 1.0
    (gradient,) = torch.autograd.grad(ours.sum(), levels)
    assert gradient.abs().mean() > 0.5


def test_every_pixel_of_a_long_photo_is_looked_at() -> None:
    height, width, covered = 64, 1280, torch.zeros(1280)
    for number in range(400):
        view = views.drawn(Views(plain=0.3), height, width, number)
        if view.side:
            covered[view.left : view.left + view.side] += 1
    assert (covered > 0).float().mean() > 0.97


def test_views_with_wear_pass_gradients_to_the_pixels() -> None:
    settings = Views(plain=0.3, jpeg=[75], halve=True, blur=1.0, noise=0.05, flip=True)
    levels = (media.to_pixels(tiny_picture((96, 80))) * 255).requires_grad_()
    kinds: set[str] = set()
    for number in range(40):
        view = views.drawn(settings, 80, 96, number)
        kinds.add(view.worn)
        part, (left, top, right, bottom) = views.region(view, 80, 96)
        shown = views.seen(levels[:, top:bottom, left:right], part, 32, number)
        assert shown.shape == (3, 32, 32)
        assert 0 <= float(shown.detach().min()) <= float(shown.detach().max()) <= 1
        (gradient,) = torch.autograd.grad(shown.sum(), levels)
        assert gradient.abs().sum() > 0
    assert kinds == {"", "jpeg", "halve", "blur", "noise"}


# -- budget --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1.0, 6.4, 6.6, 8.0])
def test_whole_levels_never_pass_the_budget(levels: float) -> None:
    reach = budget.radius(Budget(levels=levels), torch.rand(3, 20, 20) * 255, torch.ones(20, 20))
    delta = budget.whole(torch.randn(3, 20, 20) * 30, reach)
    assert delta.abs().max() == int(levels)


def test_flat_areas_lose_their_share_of_the_budget() -> None:
    levels = torch.full((3, 40, 80), 128.0)
    levels[:, :, 40:] = torch.randint(0, 256, (3, 40, 40), generator=generator("texture")).float()
    reach = budget.radius(Budget(levels=8, texture=0.75), levels, torch.ones(40, 80))[0]
    assert reach[:, :30].max() == pytest.approx(2.0)
    assert reach[:, 50:].min() == pytest.approx(8.0)


# -- gradients -----------------------------------------------------------------------------------------------


def _question(cloak: Cloak) -> tuple[torch.Tensor, Question]:
    rows = list(range(len(cloak.canvases)))
    chosen = [views.PLAIN for _ in rows]
    pixels, _ = cloak._seen(rows, chosen, "protected")  # pyright: ignore[reportPrivateUsage]
    return pixels, cloak._question(rows, chosen, 0)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    "terms",
    [
        ["denoise"],
        ["denoise", "latent_target"],
        ["target_answer"],
        ["target_step"],
        ["token_attention"],
        ["latent_shift"],
    ],
)
def test_two_stages_give_the_gradient_of_one(terms: list[str], base: Path, photos: Path) -> None:
    cloak = cloak_of(protection(base, objective=[{"term": term} for term in terms]), photos)
    pixels, question = _question(cloak)
    one, _ = of_pixels(cloak.backbone, cloak.recipe.objective, "full", pixels, question)
    two, _ = of_pixels(cloak.backbone, cloak.recipe.objective, "two_stage", pixels, question)
    assert one.abs().sum() > 0 or terms == ["latent_shift"]
    assert torch.allclose(one, two, rtol=1e-4, atol=1e-7 * float(one.abs().max() + 1))


def test_the_full_gradient_is_that_of_autograd(base: Path, photos: Path) -> None:
    cloak = cloak_of(protection(base), photos)
    pixels, question = _question(cloak)
    leaf = pixels.detach().requires_grad_()
    latents = cloak.backbone.encode(leaf).sample(question.normal)
    (wanted,) = torch.autograd.grad(denoise(cloak.backbone, question.batch(latents)).error.sum(), leaf)
    ours, _ = of_pixels(cloak.backbone, [Term(term="denoise")], "full", pixels, question)
    assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("terms", "gradient", "key"),
    [
        ([{"term": "nonsense"}], "full", "objective.0.term"),
        ([{"term": "denoise"}], "encoder", "objective.0.term"),
        ([{"term": "latent_norm"}, {"term": "target_step"}], "vae_only", "objective.1.term"),
        ([{"term": "token_attention"}], "vae_only", "objective.0.term"),
        ([{"term": "latent_target", "image": "no.png"}], "full", "objective.0.image"),
        ([{"term": "latent_shift"}], "encoder", "objective.0.term"),
    ],
)
def test_an_objective_that_cannot_be_is_named(terms: list[Any], gradient: str, key: str) -> None:
    with pytest.raises(PcsError, match=key.replace(".", r"\.")):
        objective.checked([Term(**term) for term in terms], Ascent.model_validate({"gradient": gradient}))


# -- programs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "gradient"),
    [
        ([{"term": "denoise", "goal": "max"}], "full"),
        ([{"term": "denoise", "goal": "min"}], "full"),
        ([{"term": "latent_norm", "goal": "min"}], "encoder"),
        ([{"term": "latent_target", "goal": "min"}], "encoder"),
        ([{"term": "latent_shift", "goal": "max"}], "encoder"),
        ([{"term": "target_answer", "goal": "min"}], "full"),
        ([{"term": "target_step", "goal": "min"}], "full"),
        ([{"term": "token_attention", "goal": "max"}], "full"),
    ],
)
def test_each_term_gets_what_it_is_after_inside_the_budget(
    terms: list[Any], gradient: str, base: Path, photos: Path
) -> None:
    ascent = {"gradient": gradient, "size": 2.0, "batch": 4, "start": "random"}
    made = protection(base, objective=terms, ascent=ascent, views={"plain": 1.0})
    cloak = cloak_of(made, photos)
    for _ in range(15):
        cloak.advance()
    assert value(cloak, "protected") > value(cloak, "originals")
    for canvas in cloak.canvases:
        assert 4 <= np.abs(canvas.whole()).max() <= 8


def test_training_a_surrogate_lowers_its_loss_and_forks_go_their_own_way(base: Path, photos: Path) -> None:
    cloak = cloak_of(protection(base, **LORA), photos)
    surrogate = cloak.surrogate
    posterior = cloak._views_to_train_on("originals")  # pyright: ignore[reportPrivateUsage]
    losses = [surrogate.train("main", posterior) for _ in range(30)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    main = {name: part.clone() for name, part in surrogate.studio.weights().items()}
    surrogate.fork("scratch")
    for _ in range(3):
        surrogate.train("scratch", posterior)
    scratch = surrogate.studio.weights()
    assert any(not torch.equal(main[name], scratch[name]) for name in main)
    surrogate.use("main")
    assert all(torch.equal(main[name], part) for name, part in surrogate.studio.weights().items())


def test_snapshots_come_back_in_turn(base: Path, photos: Path) -> None:
    cloak = cloak_of(protection(base, **LORA), photos)
    surrogate, posterior = cloak.surrogate, cloak._views_to_train_on("originals")  # pyright: ignore[reportPrivateUsage]
    kept = []
    for _ in range(3):
        surrogate.train("main", posterior)
        surrogate.keep("main")
        kept.append({name: part.clone() for name, part in surrogate.studio.weights().items()})
    for number in (0, 1, 2, 0):
        surrogate.recall("main")
        now = surrogate.studio.weights()
        assert all(torch.equal(kept[number][name], now[name]) for name in now)
        surrogate.train("main", posterior)


def test_a_gradient_that_is_no_number_moves_nothing(base: Path, photos: Path) -> None:
    cloak = cloak_of(protection(base), photos)
    canvas = cloak.canvases[0]
    cloak.move(canvas, torch.full_like(canvas.delta, torch.nan), 0)
    assert canvas.broken
    assert not canvas.delta.any()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_protection_runs_and_moves_the_photos(
    name: str, base: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(times, "ROUNDS", 2)
    loaded = recipe.load(name, backbone=str(base))
    assert isinstance(loaded, Protection)
    objective.checked(loaded.objective, loaded.ascent)
    short = loaded.model_copy(update={"program": [_shortened(stage) for stage in loaded.program]})
    if (prior := short.component("prior_preservation")) is not None:
        prior.count = 2  # type: ignore[attr-defined]
    cloak = cloak_of(short, photos)
    for _ in short.acts():
        cloak.advance()
    for canvas in cloak.canvases:
        # Two short steps may come to less than a level.
        assert canvas.delta.any()
        assert np.abs(canvas.whole()).max() <= loaded.budget.levels


def _shortened(stage: Any) -> Any:
    """Every act once or twice."""
    do = [
        _shortened(item) if hasattr(item, "do") else item.model_copy(update={"steps": min(item.steps, 2)})
        for item in stage.do
    ]
    return stage.model_copy(update={"repeat": 1, "do": do})


def test_greedy_times_leave_the_photos_alone_and_are_kept_to(
    base: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(times, "ROUNDS", 3)
    made = protection(base, program=[{"do": [{"choose_times": "main"}, {"perturb": "main"}]}], ascent={"size": 2.0})
    cloak = cloak_of(made, photos)
    cloak.advance()
    for canvas in cloak.canvases:
        assert canvas.times is not None
        assert 0 < len(canvas.times) < cloak.backbone.schedule.length
        assert not canvas.delta.any()
    cloak.advance()
    assert all(canvas.delta.any() for canvas in cloak.canvases)


def test_attention_that_leaves_the_subjects_word_is_told(base: Path, photos: Path) -> None:
    cloak = cloak_of(protection(base), photos, phrase="sks mug")
    _, question = _question(cloak)
    assert question.identifier == "sks"
    assert question.prompts[0] == "a photo of sks mug"
    with torch.no_grad(), looking(cloak.backbone, question.prompts, "sks") as looks:
        denoise(cloak.backbone, question.batch(torch.zeros_like(question.noise)))
    words = slice(1, 1 + len(_tokens(cloak, "a photo of sks mug")))
    own = words.start + _tokens(cloak, "a photo of sks mug").index(_tokens(cloak, "sks")[0])
    told: list[float] = []
    for level in (-1.0, 1.0):
        # Everything looks at all words alike, and at the subject's more or less.
        for layer in looks.layers:
            layer[:, :, words] = 0.01
            layer[:, :, own] = 0.01 + 0.005 * level
        told.append(float(looks.erased()[0]))
    assert 0 <= told[1] < told[0] <= 1


def _tokens(cloak: Cloak, text: str) -> list[int]:
    (tokenizer,) = cloak.backbone.tokenizers.values()
    return tokenizer(text, add_special_tokens=False).input_ids


def test_merit_takes_shorter_steps_at_noisier_times(base: Path, photos: Path) -> None:
    moved: list[float] = []
    for low in (0.0, 0.9):
        made = protection(base, ascent={"merit": True, "size": 4.0, "batch": 4}, times={"low": low, "high": low + 0.1})
        cloak = cloak_of(made, photos)
        cloak.advance()
        moved.append(float(cloak.canvases[0].delta.abs().max()))
    assert 3.8 < moved[0] <= 4.0
    assert 0 < moved[1] < 0.2


def test_the_changes_of_an_ensemble_are_averaged_and_come_back(base: Path, photos: Path) -> None:
    program = [{"repeat": 3, "do": [{"perturb": "main", "steps": 2}, {"agree": "main"}]}]
    cloaks = [
        cloak_of(protection(base, program=program, train={"seed": seed}, ascent={"size": 2.0, "batch": 4}), photos)
        for seed in (0, 1)
    ]
    both = Ensemble(cloaks)
    both.advance(), both.advance()
    own = [cloak.canvases[0].delta.clone() for cloak in cloaks]
    assert not torch.equal(*own)
    both.advance()
    for cloak in cloaks:
        assert torch.allclose(cloak.canvases[0].delta, (own[0] + own[1]) / 2)
    tensors, about = both.state()
    tensors = {key: value.clone() for key, value in tensors.items()}
    wanted = [both.advance() for _ in range(3)]
    final = both.canvases[0].delta.clone()
    both.restore(tensors, dict(about))
    assert both.done == 3
    assert [both.advance() for _ in range(3)] == pytest.approx(wanted, nan_ok=True)
    assert torch.equal(both.canvases[0].delta, final)


@pytest.mark.parametrize("name", purifiers.NAMES)
def test_purifiers_change_pictures_and_keep_them_pictures(name: str, base: Path) -> None:
    backbone = bases.load(bases.resolve(str(base)), driver.machine(("", ""), base).device, offline=True)
    pixels = media.to_pixels(tiny_picture((90, 70)))
    worn = purifiers.purifier(name, backbone)(pixels)
    assert 0 <= float(worn.min()) <= float(worn.max()) <= 1
    assert worn.shape != pixels.shape or not torch.equal(worn, pixels)
