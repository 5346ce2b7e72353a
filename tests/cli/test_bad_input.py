"""Whatever is wrong with what was typed or lies in the folder: one clear line, exit code 2, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modalities.core import files
from modalities.core.concept import Concept
from tests import tiny
from tests.conftest import Typed

Pcs = Callable[..., Typed]
FAST = [
    *("--set", "train.steps=2", "--set", "train.batch=1", "--set", "sample.steps=1"),
    *("--set", 'validation.prompts=["a photo of {}"]', "--set", "validation.images=1"),
]


def _one_line(typed: Typed, *words: str) -> None:
    """It failed before anything began, in one line that holds `words`, without a traceback."""
    assert typed.code == 2, typed.err
    assert "Traceback" not in typed.err
    assert typed.err.count("error:") == 1
    assert "\n" not in typed.message, typed.message
    for word in words:
        assert word in typed.message, typed.message


# -- the folder ----------------------------------------------------------------------------------------------


def test_missing_folder(pcs: Pcs) -> None:
    _one_line(pcs("train", "image", "nowhere", "--noun", "dog"), "nowhere", "no such folder")


def test_empty_folder(pcs: Pcs, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    _one_line(pcs("train", "image", "none", "--noun", "dog"), "none", "empty", "3 to 10 photos")


def test_a_file_instead_of_a_folder(pcs: Pcs, photos: Path) -> None:
    _one_line(pcs("train", "image", photos / "00.png", "--noun", "dog"), "00.png", "is a file")


def test_folder_without_pictures(pcs: Pcs, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("hello")
    _one_line(pcs("train", "image", "texts", "--noun", "dog"), "texts", "notes.txt", "is not a picture")


def test_photos_only_in_an_inner_folder(pcs: Pcs, tmp_path: Path) -> None:
    tiny.photos(tmp_path / "outer" / "rex")
    _one_line(pcs("train", "image", "outer", "--noun", "dog"), "outer/rex", "has 3")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folder(pcs: Pcs, photos: Path) -> None:
    photos.chmod(0)
    try:
        _one_line(pcs("train", "image", photos, "--noun", "dog"), "cannot be read")
    finally:
        photos.chmod(0o755)


def test_unreadable_folder_is_named(pcs: Pcs, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    _one_line(pcs("train", "image", photos, "--noun", "dog"), str(photos), "Permission denied")


# -- odd files among good ones -------------------------------------------------------------------------------


def _save_16_bit(path: Path) -> None:
    ramp = (np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) * 15).astype(np.uint16)
    Image.fromarray(ramp).save(path)


def _save_rotated(path: Path) -> None:
    image = Image.new("RGB", (100, 60), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def _save_animated(path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def _save_palette(path: Path) -> None:
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 60).convert("P").save(path)


def _save_transparent(path: Path) -> None:
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(path)


USABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cmyk.jpg": (lambda path: Image.new("CMYK", (64, 64), (0, 200, 200, 0)).save(path), "CMYK"),
    "deep.png": (_save_16_bit, "more than 8 bits"),
    "alpha.png": (_save_transparent, "transparency"),
    "palette.png": (_save_palette, ""),
    "rotated.jpg": (_save_rotated, "EXIF"),
    "moving.gif": (_save_animated, "first frame"),
    "huge.png": (lambda path: Image.new("L", (12_000, 12_000), 90).save(path), ""),
}


@pytest.mark.parametrize("name", USABLE)
def test_an_odd_but_usable_file_is_used(name: str, photos: Path) -> None:
    save, remark = USABLE[name]
    save(photos / name)
    before = (photos / name).read_bytes()
    concept = Concept.from_folder(photos, noun="dog")
    assert [photo.path.name for photo in concept.photos].count(name) == 1
    assert concept.skipped == ()
    assert any(remark in warning for warning in concept.warnings if name in warning) or not remark
    assert (photos / name).read_bytes() == before


def test_16_bits_are_scaled_not_clipped(photos: Path) -> None:
    _save_16_bit(photos / "deep.png")
    photo = next(p for p in Concept.from_folder(photos, noun="dog").photos if p.path.name == "deep.png")
    levels = np.asarray(photo.open())
    assert levels.min() < 5
    assert levels.max() > 235
    assert 100 < np.median(levels) < 140


def test_a_turned_photo_is_upright(photos: Path) -> None:
    _save_rotated(photos / "rotated.jpg")
    photo = next(p for p in Concept.from_folder(photos, noun="dog").photos if p.path.name == "rotated.jpg")
    assert (photo.width, photo.height) == (60, 100)


def _truncate(path: Path) -> None:
    Image.effect_noise((256, 256), 60).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:3000])


UNUSABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "corrupt.jpg": (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0 not a jpeg at all" * 20), "damaged"),
    "truncated.png": (_truncate, "damaged"),
    "truncated.jpg": (_truncate, "damaged"),
    "zero.png": (lambda path: path.touch(), "0 bytes"),
    "dot.png": (lambda path: Image.new("RGB", (1, 1)).save(path), "too small"),
    "words.jpg": (lambda path: path.write_text("hello"), "not a picture"),
    "film.mp4": (lambda path: path.write_bytes(b"0000ftypisom"), "not a picture by its name"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_file_is_named_and_the_others_are_used(name: str, photos: Path) -> None:
    spoil, reason = UNUSABLE[name]
    spoil(photos / name)
    concept = Concept.from_folder(photos, noun="dog")
    assert len(concept.photos) == 3
    assert [(path.name, reason in why) for path, why in concept.skipped] == [(name, True)]


def test_all_at_once_through_the_command(pcs: Pcs, photos: Path, base: Path) -> None:
    for name, (make, _) in (USABLE | UNUSABLE).items():
        if name != "huge.png":
            make(photos / name)
    (photos / "inner").mkdir()
    typed = pcs("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", "--json", *FAST)
    assert typed.code == 0, typed.err
    for name in [*UNUSABLE, "inner"]:
        assert f"{name} is skipped" in typed.err
    assert "9 photos" in typed.err
    assert Path(typed.json["report"]).is_file()


# -- recipe, base, keys, values ------------------------------------------------------------------------------


def test_unknown_recipe_gets_a_suggestion(pcs: Pcs, photos: Path) -> None:
    typed = pcs("train", "image", photos, "--noun", "dog", "--recipe", "dreambooth_lra")
    _one_line(typed, "dreambooth_lra", 'did you mean "image/dreambooth_lora"')


def test_unknown_base_gets_a_suggestion(pcs: Pcs, photos: Path) -> None:
    _one_line(pcs("train", "image", photos, "--noun", "dog", "--base", "minni"), "minni", 'did you mean "mini"')


def test_all_mistakes_of_a_recipe_at_once(pcs: Pcs, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "title: bad\n"
        "components: [{lora: {rnk: 3, layers: attention}}, {lorra: {}}]\n"
        "train: {stepz: 4, learning_rate: -1}\n"
        "data: {prompts: [no slot here]}\n"
        "phases: [{learn: {loraa: 0.1}, steps: 3}]\n"
    )
    typed = pcs("train", "image", photos, "--noun", "dog", "--recipe", "bad.yaml")
    assert typed.code == 2
    for expected in (
        'components.lora.rnk: unknown key; did you mean "rank"?',
        'unknown component "lorra"; did you mean "lora"?',
        'train.stepz: unknown key; did you mean "steps"?',
        "train.learning_rate: input should be greater than 0, not -1",
        "data.prompts",
    ):
        assert expected in typed.err, typed.err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.stps=3", 'did you mean "steps"'),
        ("train.steps=many", "train.steps"),
        ("train.steps", "KEY=VALUE"),
        ("components.lra.rank=3", 'did you mean "lora"'),
        ("train.steps=0", "greater than 0"),
    ],
)
def test_a_wrong_change_is_explained(pcs: Pcs, photos: Path, change: str, expected: str) -> None:
    _one_line(pcs("train", "image", photos, "--noun", "dog", "--set", change), expected)


def test_a_place_that_holds_somebody_s_files_is_left_alone(pcs: Pcs, photos: Path, base: Path) -> None:
    words = ("train", "image", photos, "--noun", "dog", "--base", base, *FAST)
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    _one_line(pcs(*words, "--out", photos), "is the folder of the photos")
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
    Path("mine").mkdir()
    Path("mine/recipe.yaml").write_text("title: mine  # with a remark\n")
    _one_line(pcs(*words, "--out", "mine"), "mine/recipe.yaml: is there already and is of no run")
    assert "with a remark" in Path("mine/recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("components: {lora: {rank: 4}}", "components: is a list"),
        ("components: [{lora: 4}]", "components.lora: takes settings"),
        ("bases: [mini]", "bases: is a mapping"),
        ("sample: 5", "sample: is a mapping"),
        ("modality: [image]", "modality: input should be 'image'"),
        ("validation: {prompts: []}", "validation.prompts: "),
    ],
)
def test_a_recipe_of_another_form(pcs: Pcs, text: str, expected: str) -> None:
    Path("mine.yaml").write_text(f"title: mine\n{text}\n")
    _one_line(pcs("recipes", "check", "mine.yaml"), expected)


def test_a_change_to_a_recipe_with_a_mistake(pcs: Pcs, photos: Path) -> None:
    Path("mine.yaml").write_text("title: mine\nmodality: [image]\ncomponents: [lora]\n")
    words = ("train", "image", photos, "--noun", "dog", "-r", "mine.yaml", "--out", "run")
    _one_line(pcs(*words, "--set", "components.min_snr={}"), "modality: input should be 'image'")


def test_a_recipe_in_which_nothing_learns(pcs: Pcs, photos: Path, base: Path) -> None:
    words = ("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", *FAST)
    _one_line(pcs(*words, "--set", "components.lora=null"), "has no component that learns")


def test_a_base_for_clips_makes_no_pictures(pcs: Pcs, photos: Path) -> None:
    for words in (
        ("train", "image", photos, "--noun", "dog", "--out", "run"),
        ("protect", photos, "--noun", "dog", "--out", "safe"),
        ("3d", "dreamfusion", "dog", "--out", "scene"),
    ):
        _one_line(pcs(*words, "--base", "mini-video"), "mini-video: is a base for clips")


def test_a_recipe_for_another_modality(pcs: Pcs, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "motion.yaml").write_text("title: m\nmodality: video\ncomponents: [lora]\n")
    typed = pcs("train", "image", photos, "--noun", "dog", "--recipe", "motion.yaml")
    _one_line(typed, "motion.yaml", "for video", "pcs video customize")


def test_layers_that_match_nothing(pcs: Pcs, photos: Path, base: Path) -> None:
    typed = pcs(
        *("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run"),
        *("--set", "components.lora.layers=atention"),
    )
    _one_line(typed, "atention", 'did you mean "attention"')
    assert not (Path("run") / "run.json").exists()


def test_yaml_that_is_none(pcs: Pcs, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("title: [unclosed\n")
    _one_line(
        pcs("train", "image", photos, "--noun", "dog", "--recipe", "broken.yaml"),
        "broken.yaml",
        "not valid YAML",
    )


def test_an_empty_noun(pcs: Pcs, photos: Path) -> None:
    _one_line(pcs("train", "image", photos, "--noun", " "), "--noun", "class word")


def test_a_missing_noun(pcs: Pcs, photos: Path) -> None:
    _one_line(pcs("train", "image", photos), "--noun")


def test_a_token_that_the_subject_does_not_use(pcs: Pcs, photos: Path, base: Path) -> None:
    typed = pcs(
        *("train", "image", photos, "--noun", "dog", "--base", base, "--recipe", "textual_inversion"),
        *("--set", "data.subject=sks {noun}", "--out", "run"),
    )
    _one_line(typed, "<new>", "data.subject")


@pytest.mark.parametrize("token", ["<|endoftext|>", "dog"])
def test_a_token_that_exists(token: str, pcs: Pcs, photos: Path, base: Path) -> None:
    typed = pcs(
        *("train", "image", photos, "--noun", "dog", "--base", base, "--recipe", "textual_inversion"),
        *("--set", f"data.subject={token}", "--set", f"components.textual_inversion.token={token}"),
    )
    _one_line(typed, "already knows", token)


# -- components ----------------------------------------------------------------------------------------------


def _trained(pcs: Pcs, photos: Path, base: Path, *settings: str) -> Typed:
    words = [word for setting in settings for word in ("--set", setting)]
    return pcs("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", *FAST, *words)


def test_components_that_contradict_one_another(pcs: Pcs, photos: Path, base: Path) -> None:
    typed = _trained(pcs, photos, Path("nowhere.txt"), "components.oft.block=8")
    _one_line(typed, "oft and lora both adapt", "drop one")
    # Which layers a component takes is known with the base alone.
    typed = _trained(pcs, photos, base, "components.full_finetune.layers=attention")
    _one_line(typed, "full_finetune and lora both train")


def test_layers_that_another_component_changes(pcs: Pcs, photos: Path, base: Path, tmp_path: Path) -> None:
    text = "title: two\nmodality: image\ncomponents: [{lora: {rank: 2}}, spectral_shifts]\n"
    (tmp_path / "two.yaml").write_text(text)
    typed = pcs("train", "image", photos, "--noun", "dog", "--base", base, "-r", "two.yaml", *FAST)
    _one_line(typed, "spectral_shifts", "another component changes the layer", "to_q")
    for later in ("lora: {rank: 2}", "oft: {block: 4}"):
        text = f"title: two\nmodality: image\ncomponents: [{{boft: {{block: 4}}}}, {{{later}}}]\n"
        (tmp_path / "two.yaml").write_text(text)
        typed = pcs("train", "image", photos, "--noun", "dog", "--base", base, "-r", "two.yaml", *FAST)
        _one_line(typed, "another component changes the layer", "to_q")


@pytest.mark.parametrize("component", ["masked_loss", "attention_localisation"])
def test_masks_that_do_not_fit(component: str, pcs: Pcs, photos: Path, base: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    setting = f"components.{component}.masks={masks}"
    _one_line(_trained(pcs, photos, base, f"{setting}-gone"), "masks-gone: there is no such folder")
    _one_line(_trained(pcs, photos, base, setting), "has no mask for 00.png", "name it 00.png")
    for path in photos.iterdir():
        Image.new("L", Image.open(path).size, 0).save(masks / path.name)
    _one_line(_trained(pcs, photos, base, setting), "00.png is empty")
    Image.new("L", (50, 40), 255).save(masks / "00.png")
    _one_line(_trained(pcs, photos, base, setting), "masks/00.png", "50x40", "as large as its photo")
    _one_line(_trained(pcs, photos, base, f"components.{component}.masks=null"), "00.png", "no alpha channel")


def test_captions_that_are_missing(pcs: Pcs, photos: Path, base: Path) -> None:
    (photos / "00.txt").write_text("a {} on a table")
    typed = _trained(pcs, photos, base, "components.captions={}")
    _one_line(typed, "01.png, 02.png", "one for every photo")
    (photos / "01.txt").write_text("a {} on a table")
    typed = _trained(pcs, photos, base, "components.captions={}")
    _one_line(typed, "02.png has no text file", "one for every photo")
    typed = _trained(pcs, photos, base, "components.captions={}", "components.captions.folder=nowhere")
    _one_line(typed, "captions.folder: nowhere")


def test_mixing_one_subject(pcs: Pcs, photos: Path, base: Path) -> None:
    _one_line(_trained(pcs, photos, base, "components.cut_mix={}"), "cut_mix", "--noun of two or more")


def test_a_preview_shows_photos_and_masks_and_trains_nothing(pcs: Pcs, photos: Path, base: Path) -> None:
    words = ("train", "image", photos, "--noun", "dog", "--base", base, "--preview", "--json")
    shown = pcs(*words, "--set", "components.masked_loss.masks=attention")
    assert shown.code == 0, shown.err
    assert len(shown.json["mask_areas"]) == 3
    assert all(0 < area < 1 for area in shown.json["mask_areas"])
    assert Image.open(shown.json["preview"]).size[1] > 3 * 160
    assert pcs(*words).json["mask_areas"] is None
    assert not Path("runs").exists()


# -- the base folder -----------------------------------------------------------------------------------------


def test_base_folder_without_weights(pcs: Pcs, photos: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "sd")
    (tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    _one_line(pcs("train", "image", photos, "--noun", "dog", "--base", "sd"), "sd/unet", "no weights")


def test_base_folder_with_pickled_weights_only(pcs: Pcs, photos: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "sd")
    weights = tmp_path / "sd" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    _one_line(pcs("train", "image", photos, "--noun", "dog", "--base", "sd"), "sd/vae", "pickle", "safetensors")


def test_base_folder_with_damaged_weights(pcs: Pcs, photos: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "sd")
    weights = tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    _one_line(pcs("train", "image", photos, "--noun", "dog", "--base", tmp_path / "sd"), "sd", "cannot be loaded")


def test_a_folder_that_is_no_base(pcs: Pcs, photos: Path) -> None:
    _one_line(pcs("train", "image", photos, "--noun", "dog", "--base", photos), "model_index.json")


def test_a_base_of_a_family_that_is_not_served(pcs: Pcs, photos: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "sd")
    index = tmp_path / "sd" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "OtherPipeline"}))
    typed = pcs("train", "image", photos, "--noun", "dog", "--base", "sd", "--out", "run")
    _one_line(typed, "OtherPipeline", "StableDiffusionPipeline")


def test_a_hub_base_offline(pcs: Pcs, photos: Path) -> None:
    typed = pcs("train", "image", photos, "--noun", "dog", "--base", "someone/some-model", "--offline")
    _one_line(typed, "someone/some-model", "--offline")


# -- the run folder ------------------------------------------------------------------------------------------


def _train(pcs: Pcs, photos: Path, base: Path, *more: str) -> Typed:
    return pcs("train", "image", photos, "--noun", "dog", "--base", base, "--out", "run", *FAST, *more)


def test_an_existing_run_is_not_overwritten(pcs: Pcs, photos: Path, base: Path) -> None:
    assert _train(pcs, photos, base).code == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    _one_line(_train(pcs, photos, base), "run", "--resume", "--out")
    assert before == {path: path.read_bytes() for path in before}


def test_resume_with_a_changed_recipe(pcs: Pcs, photos: Path, base: Path) -> None:
    assert _train(pcs, photos, base).code == 0
    _one_line(_train(pcs, photos, base, "--resume", "--set", "train.seed=5"), "recipe has changed", "train")


def test_resume_with_changed_photos(pcs: Pcs, photos: Path, base: Path) -> None:
    assert _train(pcs, photos, base).code == 0
    Image.new("RGB", (64, 64), "blue").save(photos / "extra.png")
    _one_line(_train(pcs, photos, base, "--resume"), "photos have changed", "extra.png new")


def test_resume_with_changed_captions_or_masks(pcs: Pcs, photos: Path, base: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in sorted(photos.iterdir()):
        path.with_suffix(".txt").write_text("a {} on a table")
        Image.new("L", Image.open(path).size, 255).save(masks / path.name)
    more = ("--set", "components.captions={}", "--set", f"components.masked_loss.masks={masks}")
    assert _train(pcs, photos, base, *more).code == 0
    assert _train(pcs, photos, base, *more, "--resume").code == 0
    (photos / "01.txt").write_text("a {} on a chair")
    _one_line(_train(pcs, photos, base, *more, "--resume"), "cannot resume", "photos/01.txt has changed")
    (photos / "01.txt").write_text("a {} on a table")
    Image.new("L", Image.open(photos / "00.png").size, 200).save(masks / "00.png")
    _one_line(_train(pcs, photos, base, *more, "--resume"), "cannot resume", "masks/00.png has changed")


def test_output_that_cannot_be_written(pcs: Pcs, photos: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file is in the way")
    _one_line(_train(pcs, photos, base), "is a file")


def test_read_only_output(pcs: Pcs, photos: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    _one_line(_train(pcs, photos, base), "Read-only file system", "--out")


def test_disk_too_full_to_begin(pcs: Pcs, photos: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    _one_line(_train(pcs, photos, base), "1 MB free", "needed")
    assert not (Path("run") / "run.json").exists()


def test_disk_full_while_training_keeps_what_was_done(
    pcs: Pcs, photos: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modalities.core import artifact

    original = artifact.replacing
    calls = {"count": 0}

    def full(path: Path) -> Any:
        if path.name == "weights.safetensors":
            calls["count"] += 1
            if calls["count"] == 2:
                raise files._explained(OSError(28, "No space left on device"), path)
        return original(path)

    monkeypatch.setattr(artifact, "replacing", full)
    typed = _train(pcs, photos, base, "--set", "validation.every=1", "--set", "validation.select=last")
    assert typed.code == 1
    assert "disk is full" in typed.message
    assert "Traceback" not in typed.err
    monkeypatch.setattr(artifact, "replacing", original)
    resumed = _train(pcs, photos, base, "--set", "validation.every=1", "--set", "validation.select=last", "--resume")
    assert resumed.code == 0, resumed.err


def test_two_runs_in_one_folder(pcs: Pcs, photos: Path, base: Path) -> None:
    with files.lock(Path("run")):
        _one_line(_train(pcs, photos, base), "run", "another run", str(os.getpid()))


def test_nan_stops_and_keeps_the_last_good_weights(pcs: Pcs, photos: Path, base: Path) -> None:
    import torch
    from safetensors.torch import load_file

    settings = ["--set", "validation.every=1", "--set", "train.steps=40", "--set", "validation.patience=null"]
    typed = _train(
        pcs, photos, base, *settings, "--set", "train.learning_rate=1e18", "--set", "train.max_grad_norm=null"
    )
    assert typed.code == 1, typed.err
    assert "Traceback" not in typed.err
    assert "learning rate" in typed.message
    assert "are kept" in typed.message
    weights = load_file("run/weights.safetensors")
    assert weights
    assert all(torch.isfinite(value).all() for value in weights.values())


# -- generating ----------------------------------------------------------------------------------------------


def test_a_prompt_without_the_slot(pcs: Pcs, photos: Path, base: Path) -> None:
    assert _train(pcs, photos, base).code == 0
    _one_line(pcs("generate", "run", "a dog in the snow"), "a dog in the snow", "{}", "slot")


def test_a_change_that_a_finished_run_cannot_take(pcs: Pcs, photos: Path, base: Path) -> None:
    assert _train(pcs, photos, base).code == 0
    for change, said in (
        ("components.cut_mix={}", "components.cut_mix is of training alone"),
        ("train.steps=9", "train is of training alone"),
        ("data.flip=true", "data.flip is of training alone"),
        ("sample.steps=1500", "sample.steps"),
    ):
        _one_line(pcs("generate", "run", "a {}", "--set", change), said)


def test_generating_from_what_is_no_run(pcs: Pcs, photos: Path) -> None:
    _one_line(pcs("generate", "nowhere", "a {}"), "nowhere", "no such run")
    _one_line(pcs("generate", photos, "a {}"), "run.json")


def test_generating_from_damaged_weights(pcs: Pcs, photos: Path, base: Path) -> None:
    assert _train(pcs, photos, base).code == 0
    weights = Path("run/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-10])
    _one_line(pcs("generate", "run", "a {}"), "weights.safetensors", "damaged")


def test_generating_with_another_edition_of_the_base(pcs: Pcs, photos: Path, tmp_path: Path) -> None:
    tiny.stable_diffusion(tmp_path / "sd")
    assert pcs("train", "image", photos, "--noun", "dog", "--base", "sd", "--out", "run", *FAST).code == 0
    shutil.rmtree(tmp_path / "sd")
    tiny.stable_diffusion(tmp_path / "sd", seed=1)
    _one_line(pcs("generate", "run", "a {}"), "another edition", "sd")


def test_with_json_an_error_is_an_object_too(pcs: Pcs) -> None:
    typed = pcs("train", "image", "nowhere", "--noun", "dog", "--json")
    assert typed.code == 2
    assert typed.json == {"error": "nowhere: there is no such folder.", "exit_code": 2}


def test_inspect_opens_no_pickle(pcs: Pcs, tmp_path: Path) -> None:
    (tmp_path / "weights.ckpt").write_bytes(b"\x80\x04.")
    _one_line(pcs("inspect", "weights.ckpt"), "weights.ckpt", "safetensors")


# -- several subjects ----------------------------------------------------------------------------------------


def test_every_folder_needs_a_noun(pcs: Pcs, photos: Path) -> None:
    _one_line(pcs("train", "image", photos, photos, "--noun", "dog"), "--noun", "1 times for 2 folders", "in order")


def test_two_subjects_that_no_prompt_could_tell_apart(pcs: Pcs, photos: Path, base: Path) -> None:
    words = ("--noun", "dog", "--noun", "dog", "--base", base, "--set", "data.subject=my {noun}")
    _one_line(pcs("train", "image", photos, photos, *words), 'both be called "my dog"', "data.subject")


def test_one_run_cannot_be_merged(pcs: Pcs) -> None:
    _one_line(pcs("merge", "runs/dog"), "two or more")


def test_merging_what_is_no_run(pcs: Pcs, photos: Path) -> None:
    _one_line(pcs("merge", photos, "nowhere:0.5"), str(photos), "is not a run folder")


def test_runs_of_the_same_words_cannot_be_merged(pcs: Pcs, photos: Path, base: Path) -> None:
    assert pcs("train", "image", photos, "--noun", "dog", "--base", base, "--out", "one", *FAST).code == 0
    _one_line(pcs("merge", "one", "one"), 'both be called "sks dog"', "data.subject")
    _one_line(pcs("generate", "one", "a {1} and a {2}", "--with", "one"), 'both be called "sks dog"')


def test_a_prompt_that_names_no_subject_of_several(pcs: Pcs, photos: Path, base: Path) -> None:
    others = tiny.photos(Path("others"), seed=5)
    words = ("--noun", "dog", "--noun", "cat", "--base", base, "--out", "two", *FAST)
    assert pcs("train", "image", photos, others, *words).code == 0
    _one_line(pcs("generate", "two", "a {} in the snow"), "{1} for sks dog, {2} for ohwx cat")
    _one_line(pcs("eval", "two", "--against", photos), "--against", "2 subjects")
