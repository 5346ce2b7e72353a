"""The commands as a person and a script use them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modalities.three_d.pseudo_views import PseudoViews
from pcs_cli.console import Lines
from tests import tiny
from tests.conftest import Typed

Pcs = Callable[..., Typed]
FAST = [
    *("--set", "train.steps=4", "--set", "sample.steps=2", "--set", "validation.every=2"),
    *("--set", 'validation.prompts=["a photo of {}"]', "--set", "validation.images=1"),
]


@pytest.fixture
def run(pcs: Pcs, photos: Path, base: Path) -> Path:
    typed = pcs("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", *FAST)
    assert typed.code == 0, typed.err
    return Path("run")


# -- start-up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["train", "image", "--help"], ["recipes", "list"], ["--version"]])
def test_light_commands_import_no_torch(words: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['pcs', *sys.argv[1:]]\n"
        "from pcs_cli.app import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules, 'heavy imports'\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_fits_80_columns(pcs: Pcs) -> None:
    for words in (
        [],
        ["train", "image"],
        ["generate"],
        ["recipes"],
        ["base"],
        ["inspect"],
        ["doctor"],
        ["world"],
        ["merge"],
    ):
        typed = pcs(*words, "--help")
        assert typed.code == 0
        assert max(len(line) for line in typed.out.splitlines()) <= 80


# -- train ---------------------------------------------------------------------------------------------------


def test_train_writes_everything_it_names(pcs: Pcs, photos: Path, base: Path) -> None:
    before = {path: path.read_bytes() for path in photos.iterdir()}
    typed = pcs("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", "--json", *FAST)
    assert typed.code == 0, typed.err
    result = typed.json
    assert result["run"] == "run"
    assert result["steps"] == 4
    for name in [result["weights"], result["contact_sheet"], result["report"], *result["portable"]]:
        assert Path(name).stat().st_size > 0, name
    assert {Path(name).name for name in result["portable"]} == {
        "lora-diffusers.safetensors",
        "lora-kohya.safetensors",
        "lora-comfyui.safetensors",
    }
    assert set(result["scores"]) == {"loss", "subject", "text", "drift", "balance"}
    assert not (Path("run") / "checkpoint.safetensors").exists()
    assert {path: path.read_bytes() for path in photos.iterdir()} == before


def test_the_plan_comes_before_the_work_and_progress_stays_off_stdout(pcs: Pcs, photos: Path, base: Path) -> None:
    typed = pcs("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", *FAST)
    assert typed.err.index("at most 4 steps") < typed.err.index("step 0:") < typed.err.index("step 4:")
    assert "drift" not in typed.out
    assert "pcs generate run" in typed.out
    assert all("\x1b" not in text for text in (typed.out, typed.err))


def test_quiet_says_nothing_but_the_result(pcs: Pcs, photos: Path, base: Path) -> None:
    typed = pcs("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", "--quiet", *FAST)
    assert typed.err == ""
    assert "report" in typed.out


def test_a_dry_run_gives_scripts_the_plan(pcs: Pcs, photos: Path, base: Path) -> None:
    words = ("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", "--dry-run", *FAST)
    plan = pcs(*words, "--json").json
    assert plan["steps"] == 4
    assert plan["learned"] > 0
    assert pcs(*words).out == ""


def test_dry_run_shows_the_plan_and_writes_nothing(pcs: Pcs, photos: Path, base: Path) -> None:
    typed = pcs("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", "--dry-run", *FAST)
    assert typed.code == 0
    assert "at most 4 steps" in typed.err
    assert not Path("run").exists()


def test_a_dry_run_says_where_it_stands(pcs: Pcs, photos: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []
    monkeypatch.setattr(Lines, "start", lambda _lines, stage, _total, done=0: stages.append(stage))
    words = ("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", "--dry-run", *FAST)
    assert pcs(*words).code == 0
    assert stages == [f"loading {base}", "trying a step"]


def test_the_run_folder_is_named_after_the_photos(pcs: Pcs, photos: Path, base: Path) -> None:
    assert pcs("train", "image", photos, "--noun", "dog", "--base", base, *FAST).code == 0
    assert Path("runs/photos/weights.safetensors").is_file()


def test_ctrl_c_saves_and_says_how_to_go_on(
    pcs: Pcs, photos: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    from modalities.core.trainer import Trainer

    original = Trainer.advance

    def interrupting(self: Trainer) -> float:
        loss = original(self)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(Trainer, "advance", interrupting)
    words = ["train", "image", photos, "--noun", "dog", "--base", base, *FAST, "--set", "train.steps=6"]
    stopped = pcs(*words)
    assert stopped.code == 130
    assert "stopped at step 3 of 6" in stopped.err
    assert "--out runs/photos --resume" in stopped.err
    monkeypatch.setattr(Trainer, "advance", original)
    resumed = pcs(*words, "--out", "runs/photos", "--resume")
    assert resumed.code == 0, resumed.err
    assert "resumed at step 3" in resumed.err


def test_the_report_is_one_file_with_its_pictures_inside(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert not re.search(r"(src|href)=['\"](?!data:)", page)
    assert "prefers-color-scheme: dark" in page


def test_the_contact_sheet_shows_every_photo_and_prompt(run: Path) -> None:
    sheet = Image.open(run / "contact-sheet.png")
    assert sheet.width >= 5 * 160
    assert sheet.height >= 2 * 180


def test_offline_looks_up_no_name(photos: Path, base: Path, encoders: tuple[str, str], tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*words, **_): raise AssertionError(f'looked up {words}')\n"
        "socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse\n"
        "sys.argv = ['pcs', *sys.argv[1:]]\n"
        "from pcs_cli.app import run\n"
        "sys.exit(run())\n"
    )
    words = [
        "train",
        "image",
        photos,
        "--noun",
        "dog",
        "--base",
        base,
        "--out",
        tmp_path / "run",
        "--offline",
        *FAST,
    ]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PCS_SUBJECT_ENCODER": encoders[0],
        "PCS_CLIP": encoders[1],
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert socket.getaddrinfo is not None


# -- generate ------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_whatever_else_is_asked(pcs: Pcs, run: Path) -> None:
    together = pcs("generate", run, "a {} in the snow", "a red {}", "-n", 3, "--out", "many", "--json").json["images"]
    alone = pcs("generate", run, "a red {}", "-n", 2, "--out", "few", "--json").json["images"]
    for path in alone:
        twin = Path("many") / Path(path).name
        assert str(twin) in together
        assert Path(path).read_bytes() == twin.read_bytes()
    other = pcs("generate", run, "a red {}", "--seed", 1, "--out", "few", "--json").json["images"]
    assert Path(other[0]).read_bytes() != Path(alone[0]).read_bytes()


def test_images_carry_their_prompt(pcs: Pcs, run: Path) -> None:
    (path,) = pcs("generate", run, "a {} in the snow", "--json").json["images"]
    image: Any = Image.open(path)
    assert image.text["prompt"] == "a sks dog in the snow"
    assert (image.text["seed"], image.text["index"]) == ("0", "0")


def test_grid_writes_a_contact_sheet(pcs: Pcs, run: Path) -> None:
    typed = pcs("generate", run, "a {}", "-n", 2, "--grid", "--json")
    assert Image.open(typed.json["sheet"]).width > 300


# -- recipes -------------------------------------------------------------------------------------------------


def test_recipes_are_listed_with_year_and_paper(pcs: Pcs) -> None:
    listed = pcs("recipes", "list", "--json").json
    assert {
        "image/dreambooth",
        "image/dreambooth_lora",
        "image/textual_inversion",
        "image/pivotal_tuning",
    } <= set(listed)
    assert all(one["paper"].startswith("https://") and one["year"] >= 2021 for one in listed.values())
    shown = pcs("recipes", "list")
    assert all(name in shown.out for name in listed)
    assert "photo_swap" in shown.err and "style_aligned" in shown.err and "lora" not in shown.err


def test_a_shown_recipe_is_complete_and_can_be_used(pcs: Pcs, photos: Path, base: Path) -> None:
    shown = pcs("recipes", "show", "dreambooth_lora", "--base", base).out
    Path("mine.yaml").write_text(shown)
    assert pcs("recipes", "check", "mine.yaml").code == 0
    assert pcs("recipes", "show", "mine.yaml").out == shown
    typed = pcs("train", "image", photos, "--noun", "dog", "--recipe", "mine.yaml", "--out", "run", *FAST)
    assert typed.code == 0, typed.err


def test_a_copied_recipe_is_the_shipped_one(pcs: Pcs) -> None:
    assert pcs("recipes", "copy", "textual_inversion", "my.yaml").code == 0
    assert pcs("recipes", "check", "my.yaml").code == 0
    again = pcs("recipes", "copy", "textual_inversion", "my.yaml")
    assert again.code == 2
    assert "exists already" in again.message


def test_a_folder_is_a_base_by_its_whole_path_and_a_listed_name_by_its_name(pcs: Pcs, base: Path) -> None:
    for name in ("mine", "sd15"):
        Path(name).symlink_to(base.resolve())
    kept = [pcs("recipes", "show", "dreambooth_lora", "--base", name, "--json").json["backbone"] for name in (
        "mine", "sd15", "./sd15", "owner/name"
    )]  # fmt: skip
    assert kept == [str(base.resolve()), "sd15", str(base.resolve()), "owner/name"]


# -- looking at things ---------------------------------------------------------------------------------------


def test_inspect_tells_a_run_its_files_and_a_base(pcs: Pcs, run: Path, base: Path) -> None:
    about = pcs("inspect", run, "--json").json
    assert (about["kind"], about["state"], about["subject"]) == ("run", "finished", "sks dog")
    for layout in ("diffusers", "kohya", "comfyui"):
        file = pcs("inspect", run / "portable" / f"lora-{layout}.safetensors", "--json").json
        assert (file["kind"], file["layout"], file["rank"]) == ("LoRA", layout, "16")
    assert pcs("inspect", base, "--json").json["family"] == "StableDiffusion"


def test_inspect_takes_a_folder_that_is_called_as_a_listed_base(pcs: Pcs, base: Path) -> None:
    Path("sd15").symlink_to(base.resolve())
    assert pcs("inspect", "sd15", "--json").json["fingerprint"] == pcs("inspect", base, "--json").json["fingerprint"]


def test_doctor_finds_everything_in_place(pcs: Pcs) -> None:
    typed = pcs("doctor", "--json")
    assert typed.json["problems"] == []
    assert typed.code == 0


def test_doctor_sees_two_owners_of_one_name(pcs: Pcs, monkeypatch: pytest.MonkeyPatch) -> None:
    from pcs_cli import doctor

    monkeypatch.setattr(doctor.metadata, "packages_distributions", lambda: {"modalities": ["modalities", "pcs-cli"]})
    typed = pcs("doctor", "--json")
    assert typed.code == 1
    assert "environment of its own" in typed.json["problems"][0]


def test_doctor_sees_a_torchvision_of_another_build(pcs: Pcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    typed = pcs("doctor", "--json")
    assert typed.code == 1
    assert "torchvision does not fit torch" in typed.json["problems"][0]


def test_base_check_loads_and_tries_a_base(pcs: Pcs, base: Path) -> None:
    facts = pcs("base", "check", base, "--json").json
    assert facts["family"] == "StableDiffusion"
    assert facts["resolution"] == 32


def test_base_list_names_mini(pcs: Pcs) -> None:
    assert "mini" in json.loads(pcs("base", "list", "--json").out)


def test_settings_come_from_the_environment(pcs: Pcs, monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    monkeypatch.setenv("PCS_DEVICE", "gpu")
    typed = pcs("train", "image", photos, "--noun", "dog")
    assert typed.code == 2
    assert 'device "gpu"' in typed.message
    monkeypatch.setenv("PCS_OFFLINE", "perhaps")
    assert "PCS_OFFLINE=perhaps" in pcs("train", "image", photos, "--noun", "dog").message


# -- world ---------------------------------------------------------------------------------------------------


def test_world_renders_photos_of_one_subject_with_their_truth(pcs: Pcs) -> None:
    words = ("--class", "teapot", "--seed", "3", "--size", "64", "--json")
    typed = pcs("world", "subject", "first", *words)
    assert typed.code == 0, typed.err
    result = json.loads(typed.out)
    assert result["noun"] == "teapot"
    photos = sorted(Path(result["photos"]).iterdir())
    truths = [json.loads(line) for line in Path(result["truth"]).read_text().splitlines()]
    assert [Path("first", truth["file"]) for truth in truths] == photos
    assert len(photos) == 5
    assert len({truth["context"] for truth in truths}) == 5
    assert len({json.dumps(truth["identity"]) for truth in truths}) == 1
    assert pcs("world", "subject", "again", *words).code == 0
    for photo, truth in zip(photos, truths, strict=True):
        assert photo.read_bytes() == Path("again", truth["file"]).read_bytes()
        assert Image.open(Path("first/masks") / photo.name).getbbox() == tuple(truth["box"])
        near, far = Image.open(Path("first/depth") / photo.name).getextrema()
        assert (near, far > 1500) == (0, True)


def test_world_refuses_to_mix_two_renderings(pcs: Pcs) -> None:
    assert pcs("world", "render", "scenes", "-n", "2", "--size", "16").code == 0
    typed = pcs("world", "render", "scenes", "-n", "2", "--size", "16")
    assert typed.code == 2
    assert "scenes: already holds" in typed.err


@pytest.mark.parametrize(("words", "said"), [(["--class", "mgu"], '"mug"'), (["--size", "30"], "multiple of 8")])
def test_world_names_what_is_wrong(pcs: Pcs, words: list[str], said: str) -> None:
    typed = pcs("world", "sheet", "sheet.png", *words)
    assert typed.code == 2
    assert said in typed.err
    assert not Path("sheet.png").exists()


def test_world_sheet(pcs: Pcs) -> None:
    assert pcs("world", "sheet", "sheet.png", "-n", "12", "--size", "16").code == 0
    assert Image.open("sheet.png").size == (160, 32)


def test_world_clip_writes_exact_frames_masks_and_the_path(pcs: Pcs) -> None:
    words = ("--motion", "slide left", "--class", "robot", "-n", "2", "--size", "48", "--json")
    typed = pcs("world", "clip", "slide", *words)
    assert typed.code == 0, typed.err
    truths = [json.loads(line) for line in Path("slide/truth.jsonl").read_text().splitlines()]
    assert [truth["motion"] for truth in truths] == ["slide left"] * 2
    for number, truth in enumerate(truths):
        frames = sorted(Path("slide/frames", f"{number:04}").iterdir())
        assert len(frames) == len(truth["path"]) == 8
        assert Image.open(Path("slide", truth["file"])).n_frames == 8
        masks = [Image.open(path.parents[2] / "masks" / path.parent.name / path.name) for path in frames]
        middles = [(left + right) / 2 / 48 for left, _, right, _ in (mask.getbbox() for mask in masks)]
        assert all(abs(x - seen) < 0.12 for (x, _, _), seen in zip(truth["path"], middles, strict=True))
        assert middles[0] - middles[-1] > 0.3


def test_world_clip_names_a_motion_that_is_not_there(pcs: Pcs) -> None:
    typed = pcs("world", "clip", "slide", "--motion", "jmup")
    assert typed.code == 2
    assert '"jump"' in typed.err


def test_world_subject_as_a_solid(pcs: Pcs) -> None:
    assert pcs("world", "subject", "mug", "--class", "mug", "-n", "1", "--size", "16", "--solid").code == 0
    assert Path("mug/subject.ply").read_bytes().startswith(b"ply\nformat binary_little_endian 1.0\n")
    field = np.load("mug/subject.npz")
    assert field["values"].min() < 0 < field["values"].max()
    assert (field["low"] < field["high"]).all()
    assert len(PseudoViews.read(Path("mug/views")).pictures) == 12


def test_world_render_varied_tells_of_everything_in_the_picture(pcs: Pcs) -> None:
    assert pcs("world", "render", "scenes", "-n", "30", "--size", "32", "--varied").code == 0
    truths = [json.loads(line) for line in Path("scenes/truth.jsonl").read_text().splitlines()]
    for truth in truths:
        beside = Path("scenes/companion_masks", Path(truth["file"]).name)
        assert beside.exists() == (truth["companion"] is not None)
        if truth["accessory"] and truth["accessory"] in truth["caption"]:
            assert "wearing" in truth["caption"] or "with" in truth["caption"]
    assert {"cartoon", "pencil", "pixel art", "watercolor"} <= {truth["style"] for truth in truths}
    assert sum(truth["companion"] is not None for truth in truths) > 3


# -- several subjects ----------------------------------------------------------------------------------------


def test_two_folders_train_into_one_run_that_names_them_by_number(pcs: Pcs, photos: Path, base: Path) -> None:
    other = tiny.photos(Path("others"), seed=5)
    typed = pcs("train", "image", photos, other, "--noun", "dog", "--noun", "cat", "--base", base, *FAST)
    assert typed.code == 0, typed.err
    assert "sks dog, 3 photos; ohwx cat, 3 photos" in typed.err
    assert 'pcs generate runs/photos-others "a {1} beside a {2} in the snow" -n 4' in typed.out
    typed = pcs("generate", "runs/photos-others", "a {2} on a {1}", "--json")
    with Image.open(typed.json["images"][0]) as picture:
        assert picture.text["prompt"] == "a ohwx cat on a sks dog"  # type: ignore[attr-defined]
    typed = pcs("eval", "runs/photos-others", "-n", "1", "--metrics", "dino_i", "--json")
    assert [one["title"] for one in typed.json["reports"]] == ["photos-others, sks dog", "photos-others, ohwx cat"]


def test_runs_of_several_subjects_and_of_one_name_are_told_apart(pcs: Pcs, photos: Path, base: Path) -> None:
    other = tiny.photos(Path("others"), seed=5)
    words = ("train", "image", photos, other, "--noun", "dog", "--noun", "cat", "--base", base, *FAST)
    for place in ("one/pair", "two/pair"):
        assert pcs(*words, "--out", place).code == 0
    told = pcs("inspect", "one/pair", "--json").json
    assert (told["subject"], told["photos"]) == ("sks dog, ohwx cat", 6)
    typed = pcs("eval", "one/pair", "two/pair", "-n", "1", "--metrics", "dino_i", "--json")
    assert typed.code == 0, typed.err
    titles = [f"{place}/pair, {phrase}" for place in ("one", "two") for phrase in ("sks dog", "ohwx cat")]
    assert [one["title"] for one in typed.json["reports"]] == titles


def test_photos_whose_names_are_no_utf8(pcs: Pcs, photos: Path, base: Path) -> None:
    odd = photos / os.fsdecode(b"caf\xe9.png")
    try:
        (photos / "00.png").rename(odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    words = ("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", *FAST, "--json")
    assert pcs(*words).code == 0
    assert pcs(*words, "--resume").code == 0
    assert str(odd) in json.loads(Path("run/run.json").read_text())["photos"]
    assert pcs("inspect", "run", "--json").json["photos"] == 3


def test_a_run_finds_its_base_from_anywhere(
    pcs: Pcs, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.stable_diffusion(tmp_path / "models" / "sd")
    monkeypatch.chdir(tmp_path)
    typed = pcs("train", "image", photos, "--noun", "dog", "--base", "models/sd", "--out", "run", *FAST)
    assert typed.code == 0, typed.err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pcs("generate", "../run", "a {}", "--offline").code == 0


def test_merge_shows_whom_each_subject_is_like_and_leaves_a_run(pcs: Pcs, run: Path, photos: Path, base: Path) -> None:
    other = tiny.photos(Path("others"), seed=5)
    assert pcs("train", "image", other, "--noun", "cat", "--base", base, "--out", "second", *FAST).code == 0
    typed = pcs("merge", run, "second:0.8", "--out", "both")
    assert typed.code == 0, typed.err
    table = [line.split() for line in typed.out.splitlines()]
    assert table[0] == ["asked", "for", "like", "sks", "dog", "like", "sks", "cat"]
    assert [row[:2] for row in table[1:3]] == [["sks", "dog"], ["sks", "cat"]]
    assert Path("both/contact-sheet.png").is_file()
    assert pcs("inspect", "both", "--json").json["subject"] == "sks dog, sks cat"
    typed = pcs("generate", "both", "a {1} beside a {2}", "--json")
    assert typed.code == 0, typed.err
    together = Path(typed.json["images"][0]).read_bytes()
    typed = pcs("generate", run, "a {1} beside a {2}", "--with", "second:0.8", "--out", "joined", "--json")
    assert typed.code == 0, typed.err
    assert Path(typed.json["images"][0]).read_bytes() != together  # fused there, added here
    typed = pcs("merge", run, "second:0.8", "--method", "add", "--out", "added", "--json")
    assert typed.json["subjects"] == ["sks dog", "sks cat"]
    assert len(typed.json["alone"]) == len(typed.json["together"]) == 2
    drawn = pcs("generate", "added", "a {1} beside a {2}", "--json").json["images"][0]
    assert Path(drawn).read_bytes() == Path("joined/a-sks-dog-beside-a-sks-cat-seed0-000.png").read_bytes()
