"""`pcs protect` and `pcs audit` as they are typed: what is done, what is refused, and what is said."""

from __future__ import annotations

import importlib.machinery
import json
import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modalities.core.device import Device
from protect.folder import read_record
from protect.protect import STATE
from tests import tiny
from tests.conftest import Typed

Pcs = Callable[..., Typed]
STEPS = "program=[{do: [{perturb: main, steps: 3}]}]"


@pytest.fixture
def cloak(pcs: Pcs, base: Path) -> Pcs:
    """`pcs protect` on the tiny base, three long steps."""

    def typed(photos: object, *words: object) -> Typed:
        options = ["--base", base, "--noun", "mug", "--offline", "--set", STEPS, "--set", "ascent.size=4"]
        return pcs("protect", photos, *options, *words)

    return typed


def levels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_a_folder_goes_in_and_the_same_tree_comes_out(cloak: Pcs, tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path / "photos", count=2)
    tiny.photos(photos / "in a folder", count=1, seed=3)
    odd = photos / "in a folder" / "ünïcode v1.2 (final).png"
    (photos / "in a folder" / "00.png").rename(odd)
    Image.open(photos / "00.png").convert("RGB").resize((90, 70)).save(photos / "00.jpg", quality=90)
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    done = cloak(photos, "-o", tmp_path / "out", "--json", "--eps", "6")
    assert done.code == 0, done.err
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    wanted = {path.relative_to(photos).as_posix() for path in before}
    assert {name for name in written if not name.startswith(".")} == wanted | {"protect.json"}
    for path in before:
        gap = np.abs(levels(tmp_path / "out" / path.relative_to(photos)) - levels(path))
        assert 0 < gap.max() <= 6
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before
    record = read_record(tmp_path / "out")
    assert record is not None
    assert record["state"] == "finished"
    assert record["levels"] == 6
    assert record["files"]["00.jpg"]["largest"] <= 6
    assert done.json["protected"] == 4
    assert not (tmp_path / "out" / STATE).exists()


def test_every_photo_has_its_line_and_the_limits_are_said(cloak: Pcs, pcs: Pcs, photos: Path, tmp_path: Path) -> None:
    done = cloak(photos, "-o", tmp_path / "out")
    assert done.code == 0
    for name in ("00.png", "01.png", "02.png"):
        assert f"{name}  max 8, mean " in done.err
    assert done.err.count("LPIPS not measured") == 3
    assert "LPIPS      not measured: needs lpips" in done.out
    record = read_record(tmp_path / "out")
    assert record is not None
    assert record["lpips"].startswith("needs lpips")
    assert {about["lpips"] for about in record["files"].values()} == {None}
    assert "8 of 255 levels, on the saved file" in done.err
    assert "can be undone" in done.out
    shown = " ".join(pcs("protect", "--help").out.replace("│", " ").split())
    assert "it can be undone" in shown
    for forbidden in ("immune", "unlearnable", "prevents deepfakes", "invisible", "all AI"):
        assert forbidden not in shown


def test_lpips_is_told_of_every_photo_where_it_can_be_measured(
    cloak: Pcs, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from protect import visible

    package, fetched = types.ModuleType("lpips"), tmp_path / "weights.pth"
    package.LPIPS = lambda **_: _Apart()  # type: ignore[attr-defined]
    package.__spec__ = importlib.machinery.ModuleSpec("lpips", None)
    monkeypatch.setitem(sys.modules, "lpips", package)
    monkeypatch.setattr(visible, "weights", lambda: fetched)

    class _Apart(torch.nn.Module):
        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            assert one.shape == other.shape
            return (one - other).abs().mean()

    done = cloak(photos, "-o", tmp_path / "unfetched")
    assert "LPIPS      not measured: needs the weights weights.pth" in done.out
    fetched.write_bytes(b"x")
    done = cloak(photos, "-o", tmp_path / "out", "--json")
    for name, about in done.json["files"].items():
        gap = np.abs(levels(tmp_path / "out" / name) - levels(photos / name)).mean() / 127.5
        assert about["lpips"] == pytest.approx(gap, abs=1e-4)
        assert f"{name}  max 8, mean {about['mean']:.2f} levels" in done.err
        assert f"LPIPS {about['lpips']:.3f}" in done.err


def test_bad_files_are_named_and_the_rest_is_done(cloak: Pcs, tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path / "photos", count=1)
    (photos / "zero.png").write_bytes(b"")
    (photos / "cut.png").write_bytes((photos / "00.png").read_bytes()[:300])
    (photos / "text.jpg").write_text("no picture")
    (photos / "tiny.png").write_bytes(b"")
    Image.new("RGB", (40, 200)).save(photos / "tiny.png")
    (photos / "raw.nef").write_bytes(b"raw")
    (photos / ".DS_Store").write_bytes(b"x")
    (photos / "notes.txt").write_text("x")
    done = cloak(photos, "-o", tmp_path / "out")
    assert done.code == 1
    for name in ("zero.png", "cut.png", "text.jpg", "tiny.png", "raw.nef"):
        assert f"{name} is not protected: it " in done.err
    assert ".DS_Store" not in done.err
    assert [path.name for path in sorted((tmp_path / "out").glob("[!.]*"))] == ["00.png", "protect.json"]
    strict = cloak(photos, "-o", tmp_path / "other", "--strict")
    assert strict.code == 2
    assert "nothing was started" in strict.message
    assert not (tmp_path / "other").exists()


def test_one_photo_flat_photos_and_protected_photos_are_warned_about(cloak: Pcs, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 80), "white").save(tmp_path / "photos" / "white.png")
    done = cloak(tmp_path / "photos", "-o", tmp_path / "out")
    assert done.code == 0
    assert "only one photo" in done.err
    assert "white.png is flat" in done.err
    again = cloak(tmp_path / "out", "-o", tmp_path / "twice")
    assert "white.png was protected before" in again.err
    record = json.loads((tmp_path / "out" / "protect.json").read_text())
    record["files"]["other.png"] = {"protected": False, "photo": "", "remarks": []}
    (tmp_path / "out" / "protect.json").write_text(json.dumps(record))
    assert "white.png was protected before" in cloak(tmp_path / "out", "-o", tmp_path / "thrice").err


def test_a_photo_whose_name_is_no_utf8(cloak: Pcs, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Image.effect_noise((80, 80), 60).convert("RGB").save(tmp_path / "photos" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    done = cloak(tmp_path / "photos", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.json["files"][name]["protected"]
    assert list(json.loads((tmp_path / "out" / "protect.json").read_text())["files"]) == [name]
    assert (tmp_path / "out" / name).is_file()


def test_extreme_shapes_are_protected_along_their_length(cloak: Pcs, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    coarse = np.random.default_rng(0).integers(0, 255, (4, 60, 3), np.uint8)
    Image.fromarray(coarse).resize((1300, 65), Image.Resampling.BICUBIC).save(tmp_path / "photos" / "long.png")
    done = cloak(tmp_path / "photos", "-o", tmp_path / "out", "--set", "program=[{do: [{perturb: main, steps: 15}]}]")
    assert done.code == 0
    gap = np.abs(levels(tmp_path / "out" / "long.png") - levels(tmp_path / "photos" / "long.png"))
    assert gap.shape == (65, 1300, 3)
    assert (gap.max((0, 2)) > 0).mean() > 0.95


@pytest.mark.parametrize(
    ("arrange", "code", "says"),
    [
        ("same", 2, "never changed"),
        ("inside", 2, "one inside the other"),
        ("around", 2, "one inside the other"),
        ("full", 2, "is not empty"),
        ("file", 2, "is a file"),
        ("missing", 2, "there is no such folder"),
        ("empty", 2, "holds no photo"),
        ("clash", 2, "would be written to one file"),
        ("case", 2, "would be written to one file"),
        ("recipe", 2, "program"),
        ("key", 2, "budget.level"),
        ("eps", 2, "budget.levels"),
        ("base", 2, "no/such"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    arrange: str, code: int, says: str, cloak: Pcs, photos: Path, tmp_path: Path
) -> None:
    out, words = tmp_path / "out", list[Any]()
    if arrange == "same":
        out = photos
    elif arrange == "inside":
        out = photos / "out"
    elif arrange == "around":
        out = tmp_path
    elif arrange == "full":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    elif arrange == "file":
        out.write_text("x")
    elif arrange == "missing":
        photos = tmp_path / "nowhere"
    elif arrange == "empty":
        photos = tmp_path / "nothing"
        photos.mkdir()
    elif arrange == "clash":
        Image.open(photos / "00.png").save(photos / "00.jpg")
        words = ["--set", "output.format=png"]
    elif arrange == "case":
        (photos / "A.png").write_bytes((photos / "00.png").read_bytes())
        (photos / "a.PNG").write_bytes((photos / "00.png").read_bytes())
    elif arrange == "recipe":
        words = ["--recipe", "image/dreambooth_lora"]
    elif arrange == "key":
        words = ["--set", "budget.level=3"]
    elif arrange == "eps":
        words = ["--eps", "0.2"]
    else:
        words = ["--base", "no/such"]
    listed = sorted(tmp_path.rglob("*"))
    done = cloak(photos, "-o", out, *words)
    assert done.code == code, done.err
    assert says in done.message
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == [
        path for path in listed if "cache" not in path.parts
    ]


def test_a_recipe_for_training_is_refused_by_name(pcs: Pcs, photos: Path, tmp_path: Path) -> None:
    done = pcs("protect", photos, "-o", tmp_path / "out", "--recipe", "image/dreambooth_lora")
    assert done.code == 2
    assert "is for image; take one of `pcs recipes list` for protect, or use `pcs train image`" in done.message
    done = pcs("train", "image", photos, "--noun", "mug", "--recipe", "protect/aspl", "--out", tmp_path / "out")
    assert done.code == 2
    assert "use `pcs protect`" in done.message


def test_links_out_of_the_folder_and_read_only_places(cloak: Pcs, photos: Path, tmp_path: Path) -> None:
    tiny.photos(tmp_path / "private", count=1)
    (photos / "link.png").symlink_to(tmp_path / "private" / "00.png")
    (photos / "folder").symlink_to(tmp_path / "private")
    done = cloak(photos, "-o", tmp_path / "out")
    assert done.code == 1
    assert "link.png is not protected: it is a link out of the folder" in done.err
    assert not (tmp_path / "out" / "folder").exists()
    if os.getuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "cannot be written" in cloak(photos, "-o", tmp_path / "locked" / "out").message


def test_more_photos_than_memory_holds_are_refused_and_groups_bound_it(
    cloak: Pcs, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modalities.core import device

    real = device.choose

    def small(name: str = "auto") -> Device:
        one = real(name)
        return Device(one.kind, one.dtype, one.threads, 1e-3, one.title)

    with monkeypatch.context() as patched:
        patched.setattr(device, "choose", small)
        done = cloak(photos, "-o", tmp_path / "out")
    assert done.code == 2
    assert "megapixels, which take about" in done.message
    tiny.photos(tmp_path / "many", count=7)
    many = cloak(tmp_path / "many", "-o", tmp_path / "all", "--set", "together=2", "--set", STEPS)
    assert many.code == 0
    assert "7 of" in many.err
    assert "in 4 groups" in many.err


def test_an_ensemble_of_bases_protects_together(cloak: Pcs, base: Path, photos: Path, tmp_path: Path) -> None:
    words = ["--recipe", "e_aspl", "--set", "components.lora.rank=2"]
    done = cloak(photos, "-o", tmp_path / "none", *words, "--set", "program=[{do: [{agree: main}]}]")
    assert done.code == 2
    assert "--set ensemble=" in done.message
    steps = "program=[{repeat: 2, do: [{perturb: main, steps: 2}, {agree: main}]}]"
    done = cloak(photos, "-o", tmp_path / "out", *words, "--set", steps, "--set", f"ensemble=[{base}]")
    assert done.code == 0, done.err
    assert done.err.count(str(base)) >= 2
    record = read_record(tmp_path / "out")
    assert record is not None
    assert record["base_fingerprint"].count("+") == 1
    assert 0 < np.abs(levels(tmp_path / "out" / "00.png") - levels(photos / "00.png")).max() <= 6


def test_a_surrogate_that_diverges_is_said_and_keeps_what_was_done(cloak: Pcs, photos: Path, tmp_path: Path) -> None:
    changes = ["program=[{do: [{train: main, steps: 9}, {perturb: main}]}]", "components.lora.rank=2"]
    done = cloak(
        photos, "-o", tmp_path / "out", "--recipe", "aspl", "--set", changes[0], "--set", "train.learning_rate=1e30"
    )
    assert done.code == 1
    assert "lower train.learning_rate" in done.message


def test_a_photo_without_a_usable_gradient_is_left_unprotected_and_said(
    cloak: Pcs, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from protect.cloak import Cloak

    honest = Cloak.ask

    def broken(self: Cloak, rows: list[int], number: int) -> Any:
        gradients, step = honest(self, rows, number)
        return [
            torch.full_like(one, torch.nan) if row == 1 else one for row, one in zip(rows, gradients, strict=True)
        ], step

    monkeypatch.setattr(Cloak, "ask", broken)
    done = cloak(photos, "-o", tmp_path / "out")
    assert done.code == 1
    assert "01.png is not protected: it got no usable gradient" in done.err
    assert not (tmp_path / "out" / "01.png").exists()
    assert (tmp_path / "out" / "02.png").exists()


def test_stopping_tells_how_to_go_on(cloak: Pcs, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from protect.cloak import Cloak

    honest = Cloak.advance

    def stopping(self: Cloak) -> float:
        if self.done == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self)

    with monkeypatch.context() as patched:
        patched.setattr(Cloak, "advance", stopping)
        stopped = cloak(photos, "-o", tmp_path / "out")
    assert stopped.code == 130
    assert "--resume" in stopped.err
    again = cloak(photos, "-o", tmp_path / "out", "--resume")
    assert again.code == 0, again.err
    whole = cloak(photos, "-o", tmp_path / "whole")
    assert whole.code == 0
    for name in ("00.png", "01.png", "02.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_plan_comes_first_and_dry_runs_write_nothing(cloak: Pcs, photos: Path, tmp_path: Path) -> None:
    done = cloak(photos, "-o", tmp_path / "out", "--dry-run")
    assert done.code == 0
    for word in ("device", "memory", "minute", "budget"):
        assert word in done.err
    assert not (tmp_path / "out").exists()


def test_jpeg_is_written_on_demand_and_inside_the_budget(cloak: Pcs, photos: Path, tmp_path: Path) -> None:
    done = cloak(photos, "-o", tmp_path / "out", "--set", "output.format=jpeg", "--set", "output.quality=90")
    assert done.code == 0, done.err
    for number in range(3):
        gap = np.abs(levels(tmp_path / "out" / f"{number:02}.jpg") - levels(photos / f"{number:02}.png"))
        assert 0 < gap.max() <= 8


# -- audit ---------------------------------------------------------------------------------------------------


def test_an_audit_trains_compares_and_says_what_it_did_not_test(
    cloak: Pcs, pcs: Pcs, base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protect.audit.TEMPLATES", ("a photo of {}", "a {} in the snow"))
    attack = tmp_path / "attack.yaml"
    attack.write_text(
        "title: short\nmodality: image\ncomponents: [{lora: {rank: 2}}]\ndata: {subject: '{noun}'}\n"
        "train: {steps: 2}\nsample: {steps: 1}\n"
    )
    assert cloak(photos, "-o", tmp_path / "safe").code == 0
    words = ["audit", photos, tmp_path / "safe", "--attack", attack, "--base", base, "--seeds", 1]
    done = pcs(*words, "--purify", "jpeg75", "--mix", 1, "-o", tmp_path / "found", "--offline", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert [result["purify"] for result in found["results"]] == [None, "jpeg75"]
    assert {"clip_t", "dino_i"} <= set(found["results"][0]["values"]["protected"])
    assert all(len(arm["dino_i"]) == 8 for arm in found["results"][0]["values"].values())
    assert found["noun"] == "mug"
    assert found["verdict"] in ("weakened", "no clear effect")
    assert found["not_tested"][0] == "photos after jpeg90, jpeg50, resize, blur, noise, crop, vae"
    arms = {arm: sorted((tmp_path / "found" / "photos" / arm).glob("*.png")) for arm in ("clean", "noise", "protected")}
    # The last photo is the one that is left unprotected.
    assert np.array_equal(levels(arms["protected"][2]), levels(arms["clean"][2]))
    noise = np.abs(levels(arms["noise"][0]) - levels(arms["clean"][0]))
    assert noise.max() == found["photos"][0]["largest"]
    page = (tmp_path / "found" / "audit.html").read_text()
    assert "Not tested means not known" in page
    assert "type=range" in page
    assert "the easiest case" in page
    assert {"largest", "mean", "psnr", "lpips"} <= set(found["photos"][0])
    assert "LPIPS is not measured: needs lpips" in page
    assert str(tmp_path) not in page
    assert (tmp_path / "found" / "contact-sheet.png").is_file()
    written = (tmp_path / "found" / "runs").stat().st_mtime_ns
    again = pcs(*words, "--purify", "jpeg75", "--mix", 1, "-o", tmp_path / "found", "--offline", "--json")
    assert again.json["results"] == found["results"]
    assert (tmp_path / "found" / "runs").stat().st_mtime_ns == written
    other = pcs(*words, "-o", tmp_path / "found", "--offline")
    assert other.code == 2
    assert "another audit" in other.message
    shutil.rmtree(tmp_path / "safe")
    assert cloak(photos, "-o", tmp_path / "safe", "--eps", 4).code == 0
    anew = pcs(*words, "--purify", "jpeg75", "--mix", 1, "-o", tmp_path / "found", "--offline")
    assert anew.code == 2, "other files of the same names"
    assert "another audit" in anew.message


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--purify", "magic"], "there is no such step"),
        (["--mix", "3"], "leaves no protected photo"),
        (["--attack", "protect/aspl"], "give an image recipe"),
        (["--attack", "nonsense"], "unknown recipe"),
        (["--base", "no/such"], "no/such"),
    ],
)
def test_audits_that_cannot_be_are_refused(words: list[str], says: str, pcs: Pcs, photos: Path, tmp_path: Path) -> None:
    done = pcs("audit", photos, photos, "--offline", "-o", tmp_path / "found", *words)
    assert done.code == 2
    assert says in done.message


def test_verdicts_need_both_comparisons() -> None:
    from protect.audit import _verdict  # pyright: ignore[reportPrivateUsage]

    below, across = {"mean": -0.1, "low": -0.2, "high": -0.05}, {"mean": -0.1, "low": -0.2, "high": 0.05}
    assert _verdict({"clean": below, "noise": below}) == "weakened"
    assert _verdict({"clean": below, "noise": across}) == "no clear effect"
    assert _verdict({"clean": across, "noise": below}) == "no clear effect"


def test_the_record_can_be_checked_later(cloak: Pcs, photos: Path, tmp_path: Path) -> None:
    assert cloak(photos, "-o", tmp_path / "out").code == 0
    record = json.loads((tmp_path / "out" / "protect.json").read_text())
    assert {"recipe", "noun", "base_fingerprint", "versions", "photos", "files"} <= set(record)
    assert record["recipe"]["train"]["seed"] == 0
    from modalities.core.files import fingerprint

    for name, about in record["files"].items():
        assert about["digest"] == fingerprint(tmp_path / "out" / name)
        assert record["photos"][name] == fingerprint(photos / name)
    (tmp_path / "out" / "00.png").write_bytes(b"changed")
    refused = cloak(photos, "-o", tmp_path / "out", "--resume")
    assert refused.code == 2
    assert "is not as it was written" in refused.message
