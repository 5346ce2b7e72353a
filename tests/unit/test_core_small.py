"""Draws, files, plugins, shapes, and what the package is made of."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import jaxtyping
import pytest
import torch

from modalities.core import bases, files, plugins
from modalities.core.component import Component
from modalities.core.concept import Concept
from modalities.core.draws import Draws, generator
from modalities.core.errors import PcsError, did_you_mean
from modalities.core.metrics.dino_i import SubjectSimilarity
from modalities.core.recipe import Train
from modalities.core.trainer import rate
from tests import tiny


def test_draws_depend_on_seed_purpose_and_position_alone() -> None:
    draws = Draws(3)
    first = draws.normal("noise", [5, 6], (2, 2))
    assert torch.equal(first[1], draws.normal("noise", [6], (2, 2))[0])
    assert not torch.equal(first[1], draws.normal("latents", [6], (2, 2))[0])
    assert not torch.equal(first[1], Draws(4).normal("noise", [6], (2, 2))[0])


def test_what_happens_by_chance_does_not_depend_on_the_noise_level() -> None:
    draws = Draws(3)
    times = draws.uniform("time", range(2000))
    chosen = torch.tensor([draws.chance("dropout", position) < 0.2 for position in range(2000)])
    shares = torch.stack([chosen[(times * 5).long() == fifth].float().mean() for fifth in range(5)])
    assert 0.12 < shares.min() < shares.max() < 0.28


def test_every_photo_comes_once_before_any_comes_again() -> None:
    draws = Draws(0)
    order = [draws.pick("photo", position, 5) for position in range(20)]
    assert all(sorted(order[start : start + 5]) == [0, 1, 2, 3, 4] for start in range(0, 20, 5))
    assert len({tuple(order[start : start + 5]) for start in range(0, 20, 5)}) > 1


def test_keyed_generators_leave_the_global_one_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    torch.rand(3, generator=generator("x", 1))
    assert torch.equal(torch.rand(2), expected)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    files.write_json(path, {"a": 1})

    class Odd:
        pass

    with pytest.raises(TypeError):
        files.write_json(path, {"a": Odd()})
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def _hold(folder: Path, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    with files.lock(folder):
        ready.set()
        done.wait(20)


def test_a_lock_goes_with_its_process_even_when_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, done))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(PcsError, match=f"process {holder.pid}"), files.lock(tmp_path):
        pass
    holder.kill()
    holder.join()
    with files.lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_texts_that_lose_words_still_get_names_of_their_own() -> None:
    assert files.slug("A <new> dog in the Snow") == "a-new-dog-in-the-snow"
    assert files.slug("a dog, red") != files.slug("a dog red")
    long = "a very long prompt about a dog that runs on the beach at night with a "
    for texts in ((f"{long}red toy", f"{long}blue mug"), ("\u732b", "\u72ac")):
        first, second = (files.slug(text) for text in texts)
        assert first != second
        assert max(len(first), len(second)) < 80


def test_an_unknown_name_gets_the_nearest() -> None:
    assert did_you_mean("drembooth", ["dreambooth", "lora"]) == 'did you mean "dreambooth"?'
    assert did_you_mean("xyz", ["b", "a"]) == "allowed: a, b"


def test_plugins_are_found_by_their_file_names() -> None:
    assert plugins.load("components", "lora", Component).__name__ == "Lora"
    assert {"sd", "sd3"} <= set(plugins.names("backbones"))
    with pytest.raises(PcsError, match='unknown component "loar"; did you mean "lora"'):
        plugins.load("components", "loar", Component, "image")


def test_a_tensor_of_the_wrong_rank_is_refused() -> None:
    from modalities.core.schedule import DiffusionSchedule

    schedule = DiffusionSchedule({"num_train_timesteps": 10})
    with pytest.raises(jaxtyping.TypeCheckError):
        schedule.timesteps(torch.zeros(2, 2))


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    settings = Train(schedule="linear", warmup=10)
    assert rate(settings, 0, 100) == pytest.approx(0.1)
    assert rate(settings, 9, 100) == 1.0
    assert rate(settings, 10, 100) == 1.0
    assert rate(settings, 100, 100) == pytest.approx(0.1)
    cosine = [rate(Train(schedule="cosine"), step, 50) for step in range(51)]
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[-1] == pytest.approx(0.1)


def test_near_duplicates_and_blurred_and_small_photos_are_warned_about(tmp_path: Path) -> None:
    from PIL import Image, ImageFilter

    noise = Image.effect_noise((300, 300), 80).convert("RGB")
    noise.save(tmp_path / "a.png")
    noise.point(lambda value: min(255, value + 2)).save(tmp_path / "b.png")
    Image.effect_noise((300, 300), 80).filter(ImageFilter.GaussianBlur(12)).convert("RGB").save(tmp_path / "c.png")
    Image.effect_noise((40, 40), 80).convert("RGB").save(tmp_path / "d.png")
    warnings = "\n".join(Concept.from_folder(tmp_path, noun="dog", resolution=64).warnings)
    assert "b.png and a.png are nearly the same" in warnings
    assert "c.png looks blurred" in warnings
    assert "d.png is only 40x40" in warnings
    assert "a.png looks blurred" not in warnings


def test_the_ceiling_of_likeness_is_the_photos_among_themselves(encoders: tuple[str, str], tmp_path: Path) -> None:
    from modalities.core.encoders import ImageEncoder

    photos = Concept.from_folder(tiny.photos(tmp_path / "photos"), noun="dog").photos
    images = [photo.open() for photo in photos]
    scorer = SubjectSimilarity(ImageEncoder(encoders[0], torch.device("cpu")), images)
    same = scorer.score(images)
    assert sum(same) / 3 == pytest.approx((1 + 2 * scorer.ceiling()) / 3, abs=1e-5)


def test_encoders_that_see_too_little_do_not_choose_the_step(
    encoders: tuple[str, str], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modalities.core import validation
    from tests import driver

    said: list[str] = []
    monkeypatch.setattr(validation, "COARSEST", 0.1)
    monkeypatch.setattr("modalities.core.progress.Silent.warn", lambda _, text: said.append(text))
    run = driver.train(tmp_path / "run", base, tiny.photos(tmp_path / "photos"), encoders)
    assert run.about()["kept_step"] == 12
    assert "PCS_SUBJECT_ENCODER" in said[0]


def test_the_wheel_holds_our_packages_and_recipes_and_nothing_else(tmp_path: Path) -> None:
    import zipfile

    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(Path(__file__).parents[2])).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pcs_cli", "modalities", "protect"}
    assert "pcs_cli/recipes/image/dreambooth_lora.yaml" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_the_time_left_is_told_by_steps_and_not_by_what_came_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pcs_cli import console

    clock = iter([0.0, 60.0, 66.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    lines = console.Lines(console.Console())
    lines.start("training", 101)
    lines.advance()
    lines.advance()
    assert capsys.readouterr().err.splitlines() == ["training 2/101, 594 s left"]


def test_without_an_address_for_the_hub_only_its_cache_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_address(*_: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    monkeypatch.setattr(bases, "getproxies", dict)
    assert bases.only_cached(False)
    with pytest.raises(PcsError, match=r"someone/something: is not in the local cache, and the Hub cannot be reached"):
        bases.family(bases.resolve("someone/something"))

    monkeypatch.setattr(bases, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert not bases.only_cached(False), "a proxy looks names up itself"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    monkeypatch.setattr(bases, "getproxies", dict)
    assert not bases.only_cached(False)
    assert bases.only_cached(True)
