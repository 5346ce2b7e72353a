"""`pcs 3d`: every stage in its folder, resumed without work, and one line for every mistake."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modalities.core import bases
from modalities.three_d import outputs
from modalities.three_d.mesh import Mesh, isosurface
from modalities.three_d.mesh_files import write_glb
from modalities.three_d.page import write_page
from modalities.three_d.texture import textured
from tests.conftest import Typed
from tests.three_d.test_distillation import SCENE

Pcs = Callable[..., Typed]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IMAGE: dict[str, Any] = {
    "title": "a short DreamBooth",
    "components": [{"lora": {"rank": 2}}],
    "data": {"subject": "sks {noun}"},
    "train": {"steps": 2, "learning_rate": 0.001},
    "validation": {"prompts": ["a photo of {}"], "images": 1},
    "sample": {"steps": 1},
}


@pytest.fixture
def method(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of all stages that takes seconds on the tiny base, and small pictures of what it makes."""
    for name, value in (("FRAMES", 2), ("SIDE", 16), ("SHEET_VIEWS", 2), ("CELLS", 20)):
        monkeypatch.setattr(outputs, name, value)
    (tmp_path / "image.yaml").write_text(json.dumps(IMAGE), encoding="utf-8")
    dreambooth = {"recipe": "image.yaml", "partial": 1, "full": 2, "multiview": 1, "views": 3}
    whole = SCENE | {
        "backbone": str(base),
        "components": [{"dreambooth": dreambooth}, *SCENE["components"]],
        "train": {"weight_decay": 0},
        "phases": [{"learn": {"nerf": 0.01, "surroundings": 0.01}, "steps": 2}],
        "sample": {"steps": 2},
    }
    path = tmp_path / "all.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def test_all_stages_are_done_once_resumed_and_checked(
    pcs: Pcs, method: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("3d", "dreambooth3d", photos, "--noun", "dog", "-r", method, "-o", "out", "--json")
    loaded, load = [], bases.load
    with monkeypatch.context() as patch:
        patch.setattr(bases, "load", lambda *given, **more: loaded.append(given) or load(*given, **more))
        made = pcs(*words)
    assert made.code == 0, made.err
    assert len(loaded) == 2, "one base for all stages, and one to draw the finished scene"
    out = tmp_path / "out"
    assert list(made.json["stages"]) == sorted(path.parent.name for path in out.glob("*/done.json"))
    for name in ("turntable", "film", "contact_sheet", "glb", "obj", "points", "page"):
        assert (tmp_path / made.json[name]).stat().st_size > 500
    assert pcs(*words).message.startswith("out: already holds a run; add --resume")

    glb, weights = (out / "mesh.glb").read_bytes(), (out / "06_scene" / "weights.safetensors").stat().st_mtime_ns
    again = pcs(*words, "--resume")
    assert again.code == 0, again.err
    assert (out / "mesh.glb").read_bytes() == glb
    assert (out / "06_scene" / "weights.safetensors").stat().st_mtime_ns == weights

    for name in ("05_multiview", "06_scene"):
        shutil.rmtree(out / name)
    assert pcs(*words, "--resume").code == 0
    assert (out / "mesh.glb").read_bytes() == glb, "stages made again are the same bytes"

    image = out / "04_pseudo" / "images" / "001.png"
    image.unlink()
    told = pcs(*words, "--resume")
    assert told.code == 2
    assert "05_multiview: was made from something else" in told.message
    for name in ("05_multiview", "06_scene"):
        shutil.rmtree(out / name)
    assert pcs(*words, "--resume").code == 0, "a pseudo view may be left out"

    (out / "01_partial" / "recipe.yaml").write_text("changed")
    told = pcs(*words, "--resume")
    assert told.code == 2
    assert "recipe.yaml: was changed since the stage was done; delete the folders 01_partial, 02_scene" in told.message


def test_one_word_becomes_a_scene_that_can_be_drawn_and_meshed_again(pcs: Pcs, method: Path, tmp_path: Path) -> None:
    whole = json.loads(method.read_text())
    method.write_text(json.dumps(whole | {"components": whole["components"][1:]}), encoding="utf-8")
    made = pcs("3d", "dreamfusion", "dog", "-r", method, "-o", "out")
    assert made.code == 0, made.err
    assert "out/turntable.gif" in made.out
    turned = pcs("3d", "render", "out", "-n", 3, "--size", 17, "-o", "small", "--json")
    assert Path(turned.json["turntable"]).is_file()
    meshed = pcs("3d", "export", "out", "--cells", 20, "--size", 0.2, "-o", "small", "--json")
    assert meshed.json["closed"] is True
    assert meshed.json["faces"] > 50
    assert max(meshed.json["metres"]) == pytest.approx(0.2, abs=1e-4)
    alone = pcs("3d", "export", "out", "--format", "obj", "--cells", 20, "-o", "alone")
    assert alone.out.split()[0] == "alone/mesh.obj"
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == ["mesh.mtl", "mesh.obj", "mesh.png"]
    refused = pcs("3d", "export", "out", "--format", "stl")
    assert refused.message == '--format is glb, obj, ply or nerfstudio, not "stl".'
    assert pcs("3d", "dreamfusion", "--run", "out").message == "--run out: is not a finished run of `pcs train image`."
    assert "is a run of a scene; use `pcs 3d eval`" in pcs("eval", "out").message
    assert pcs("inspect", "out", "--json").json["subject"] == "dog"
    measured = pcs("3d", "eval", "out", "--json")
    assert measured.json["iou"] is None
    assert 0 <= measured.json["view_words"] <= 1
    assert 0 <= measured.json["precision"] <= 1
    assert measured.json["among"] == 15, "its own word and fourteen others"


def test_a_plan_says_stages_and_what_is_asked_of_each_side(
    pcs: Pcs, method: Path, photos: Path, tmp_path: Path
) -> None:
    front = ("--set", 'components.view_prompts.words.front=", from the front"')
    told = pcs("3d", "dreambooth3d", photos, "--noun", "dog", "-r", method, "-o", "out", "--dry-run", *front)
    assert "a photo of a sks dog in the snow, from the front" in " ".join(told.err.split())
    assert "a photo of a sks dog in the snow, back view" in " ".join(told.err.split())
    told = pcs("3d", "dreambooth3d", photos, "--noun", "dog", "-r", method, "-o", "out", "--dry-run")
    assert told.code == 0, told.err
    said = " ".join(told.err.split())
    for words in ("01_partial 1 steps", "02_scene 2 steps", "04_pseudo 3 views", "06_scene 2 steps"):
        assert words in said
    assert "back a photo of a sks dog in the snow, back view (up to 45 degrees off the back)" in said
    told = pcs(
        "3d", "dreamfusion", "dog", "-o", "out", "--base", json.loads(method.read_text())["backbone"], "--dry-run"
    )
    assert told.code == 0, told.err
    assert "overhead a DSLR photo of a dog, overhead view (from 60 degrees up)" in " ".join(told.err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_page_turns_the_mesh_in_a_browser(tmp_path: Path, width: int, scheme: Any) -> None:
    from playwright.sync_api import sync_playwright

    axis = np.linspace(-1, 1, 16)
    ball = Mesh(*isosurface(0.6 - np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis), -1), axis=-1), 0.0))
    green = textured(ball, lambda points, _: np.tile([0.1, 0.8, 0.1], (len(points), 1)), 64)
    write_glb(green.standing(), tmp_path / "ball.glb")
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "one.gif")
    picture.save(tmp_path / "one.png")
    files = {"glb": tmp_path / "ball.glb", "turntable": tmp_path / "one.gif", "sheet": tmp_path / "one.png"}
    write_page(tmp_path / "page.html", "<ball>", recipe="title: ball", **files)
    with sync_playwright() as driven:
        software = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = driven.chromium.launch(executable_path=CHROMIUM, args=software)
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.append(request.url) if request.url.startswith("http") else None)
        page.goto((tmp_path / "page.html").as_uri())
        page.get_by_text(f"{len(ball.faces):,} triangles").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shot = Image.open(io.BytesIO(page.locator("canvas").screenshot()))
        red, green_seen, blue = shot.convert("RGB").getpixel((shot.width // 2, shot.height // 2))
        assert green_seen > 2 * max(red, blue), "the ball is seen in the middle in its own colour"
        assert not troubles
        browser.close()


def test_mistakes_are_one_line(pcs: Pcs, photos: Path, tmp_path: Path) -> None:
    for words, line in (
        (("dreamfusion",), "give a word (pcs 3d dreamfusion duck) or --run RUN, one of both."),
        (("dreamfusion", "dog", "-r", "dreambooth_lora"), 'recipe "dreambooth_lora" is for image; take one of'),
        (("dreamfusion", "--run", "nowhere"), "nowhere: there is no such run folder."),
        (("render", "nowhere"), "nowhere: there is no such run folder."),
        (("dreambooth3d", "nowhere", "--noun", "dog"), "nowhere: there is no such folder."),
        (("dreambooth3d", photos, "--noun", "dog", "-r", "dreamfusion"), "the recipe needs the component dreambooth."),
        (("dreambooth3d", photos, "--noun", "dog", "--set", "components.orbit.azimuth=3"), "unknown key"),
        (("dreambooth3d", photos, "--noun", "dog", "--set", "components.nerf.sides=[]"), "components.nerf.sides: "),
    ):
        told = pcs("3d", *words)
        assert told.code == 2, (words, told)
        assert line in told.message, (words, told.message)
        assert len(told.message.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
