"""`pcs eval` as typed: the table, the gates, the page in a real browser, and what is wrong with what was given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from modalities.core import media
from tests import driver
from tests.conftest import Typed

Pcs = Callable[..., Typed]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def run(base: Path, photos: Path, encoders: tuple[str, str], tmp_path: Path) -> Path:
    """A finished run of the tiny base."""
    return driver.train(tmp_path / "run", base, photos, encoders).folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures of three prompts, listed in prompts.csv beside their folder."""
    folder = tmp_path / "made"
    folder.mkdir()
    rows = ["file,prompt"]
    for number in range(6):
        Image.effect_mandelbrot((48, 48), (-2 + number / 9, -1, 1, 1), 20 + number).convert("RGB").save(
            folder / f"{number}.png"
        )
        rows.append(f"{number}.png,a dog number {number // 2}")
    (tmp_path / "prompts.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_run_draws_once_and_is_judged(pcs: Pcs, run: Path) -> None:
    typed = pcs("eval", run, "-n", 2, "--json")
    assert typed.code == 0, typed.err
    report = typed.json["reports"][0]
    assert report["pictures"] == 4
    assert {"clip_t", "dino_i", "clip_i", "copy", "diversity", "drift"} <= set(report["metrics"])
    assert "identity" in report["not_run"]
    for metric in report["metrics"].values():
        assert metric["checkpoint"]
        assert metric["n"] >= 2 and metric["failed"] == 0
    drawn = {path: path.stat().st_mtime_ns for path in sorted((run / "evaluation" / "pictures").iterdir())}
    again = pcs("eval", run, "-n", 3, "--json")
    assert again.json["reports"][0]["pictures"] == 6
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn, "a finished picture was drawn again"


def test_other_weights_draw_anew(pcs: Pcs, run: Path) -> None:
    before = pcs("eval", run, "-n", 1, "--json").json["reports"][0]
    assert before["metrics"]["clip_t"]["mean"] is not None
    marker = run / "evaluation" / "pictures" / "left-over.png"
    shutil.copy(next(marker.parent.iterdir()), marker)
    assert pcs("eval", run, "-n", 1, "--seed", 5).code == 0
    assert not marker.exists()


def test_the_table_always_shows_both_axes(pcs: Pcs, pictures: Path, photos: Path) -> None:
    typed = pcs("eval", pictures, "--against", photos, "--prompts", "prompts.csv", "--metrics", "diversity")
    assert typed.code == 0, typed.err
    *table, _page = typed.out.splitlines()
    assert [line.split()[0] for line in table[2:5]] == ["CLIP-T", "DINO-I", "diversity"]
    assert all(len(line) <= 80 for line in table)


def test_a_missed_gate_is_exit_code_3(pcs: Pcs, pictures: Path, photos: Path) -> None:
    words = ("eval", pictures, "--against", photos, "--prompts", "prompts.csv", "--json")
    assert pcs(*words, "--gate", "subject>=-1").code == 0
    typed = pcs(*words, "--gate", "subject>=-1,text>=1.5")
    assert typed.code == 3
    assert typed.json["missed"] == ["made: clip_t>=1.5"]


def test_an_empty_picture_is_named_and_the_rest_is_scored(pcs: Pcs, pictures: Path, photos: Path) -> None:
    (pictures / "3.png").write_bytes(b"")
    typed = pcs("eval", pictures, "--against", photos, "--prompts", "prompts.csv")
    assert typed.code == 0
    assert "3.png: is not a readable picture" in typed.err
    assert " 5/6 " in typed.out


def test_pictures_are_turned_upright_as_photos_are(pcs: Pcs, photos: Path) -> None:
    for path in photos.iterdir():
        with Image.open(path) as image:
            lying = image.convert("RGB").transpose(Image.Transpose.ROTATE_90)
        tags = Image.Exif()
        tags[0x0112] = 6
        lying.save(path, exif=tags)
    found = pcs("eval", photos, "--against", photos, "--metrics", "copy", "--out", "page", "--json")
    assert found.code == 0, found.err
    (report,) = json.loads(Path("page/evaluation.json").read_text()).values()
    assert report["metrics"]["copy"]["mean"] == pytest.approx(1.0, abs=1e-4)


def test_pictures_are_read_side_by_side_whatever_their_size(monkeypatch: pytest.MonkeyPatch, pictures: Path) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with ThreadPoolExecutor(8) as readers:
        found = list(readers.map(lambda _: media.upright_rgb(pictures / "0.png")[0], range(200)))
    assert len({one.tobytes() for one in found}) == 1
    assert Image.MAX_IMAGE_PIXELS == 10


def test_lists_of_pictures_name_them_in_any_way_but_not_without_a_prompt(pcs: Pcs, pictures: Path) -> None:
    Path("list.csv").write_text(f"file,prompt\n./0.png,a dog\n{(pictures / '1.png').resolve()},a cat\n")
    assert pcs("eval", pictures, "--prompts", "list.csv", "--metrics", "clip_t", "--out", "page").code == 0
    Path("list.csv").write_text("file,prompt\n0.png,a dog\n1.png\n")
    told = pcs("eval", pictures, "--prompts", "list.csv", "--metrics", "clip_t", "--out", "page")
    assert told.code == 2
    assert "1.png has no prompt" in told.message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["made", "--metrics", "clipt"], '"clip_t"'),
        (["made", "--gate", "beauty>=1"], 'gate "beauty>=1"'),
        (["made", "--prompts", "prompts.csv", "--against", "nowhere"], "nowhere"),
        (["made", "--prompts", "absent.csv"], "absent.csv"),
        (["made", "--prompts", "prompts.txt"], ".csv or .jsonl"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(pcs: Pcs, pictures: Path, words: list[str], said: str) -> None:
    typed = pcs("eval", *words, "--out", "page")
    assert typed.code == 2
    assert said in typed.message
    assert not Path("page/evaluation.html").exists()


def test_metrics_are_listed_with_what_they_need(pcs: Pcs) -> None:
    typed = pcs("eval", "--metrics", "help", "--json")
    assert typed.code == 0
    assert typed.json["clip_t"]["title"] == "CLIP-T"
    assert "references" in typed.json["dino_i"]["needs"]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_page_works_in_a_browser(
    pcs: Pcs, run: Path, pictures: Path, photos: Path, width: int, scheme: str
) -> None:
    from playwright.sync_api import sync_playwright

    typed = pcs("eval", run, run, "-n", 2, "--out", "page", "--against", photos, "--json")
    assert typed.code == 0, typed.err
    address = Path(json.loads(typed.out)["page"]).resolve().as_uri()
    with sync_playwright() as driven:
        browser = driven.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        troubles: list[str] = []
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.append(request.url) if request.url.startswith("http") else None)
        page.goto(address)
        assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        assert page.locator("img").count() >= 8
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        page.locator("details").last.locator("summary").click()
        table = page.locator("table.sort").last
        table.locator("th").nth(1).click()
        shown = [float(cell) for cell in table.locator("tbody tr td:nth-child(2)").all_text_contents()]
        assert shown == sorted(shown, reverse=True)
        table.locator("th").nth(1).click()
        assert table.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
        assert not troubles
        browser.close()
