"""`pcs bench` as typed: published layouts, jobs that are done once, tables that invent nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.conftest import Typed

Pcs = Callable[..., Typed]
RECIPE = """title: DreamBooth
backbone: {base}
components: [{{lora: {{rank: 2}}}}]
train: {{steps: 2, learning_rate: 0.001, batch: 2}}
validation: {{every: 2, prompts: ["a photo of {{}}"], images: 1}}
sample: {{steps: 2, guidance: 2.0}}
"""
LISTING = """Classes

subject_name,class
rex,dog
cup,cup
gone,toy

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a red hat'.format(unique_token, class_token)
]
"""


@pytest.fixture
def recipe(base: Path, tmp_path: Path) -> Path:
    path = tmp_path / "few.yaml"
    path.write_text(RECIPE.format(base=base))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder laid out as DreamBench is, one of its subjects missing."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "prompts_and_classes.txt").write_text(LISTING)
    for name in ("rex", "cup"):
        tiny.photos(folder / name)
    return folder


@pytest.fixture
def bench(pcs: Pcs, root: Path) -> Path:
    typed = pcs("bench", "init", "dreambench", "bench", "--root", root)
    assert typed.code == 0, typed.err
    return Path("bench")


def test_dreambench_is_read_from_its_own_files(pcs: Pcs, root: Path) -> None:
    typed = pcs("bench", "init", "dreambench", "bench", "--root", root)
    assert "gone" in typed.err
    subjects = {one["name"]: one for one in json.loads(Path("bench/benchmark.json").read_text())["subjects"]}
    assert set(subjects) == {"rex", "cup"}
    assert (subjects["rex"]["kind"], subjects["rex"]["prompts"]) == ("live", ["a {} wearing a red hat"])
    assert (subjects["cup"]["kind"], subjects["cup"]["prompts"]) == ("object", ["a {} in the jungle", "a red {}"])


def test_custom101_is_read_from_its_own_files(pcs: Pcs, tmp_path: Path) -> None:
    root = tmp_path / "cc101"
    (root / "benchmark_dataset").mkdir(parents=True)
    tiny.photos(root / "benchmark_dataset" / "scene_barn")
    (root / "prompts").mkdir()
    (root / "prompts" / "barn.txt").write_text("a {} in the snow\na painting of a {}\n")
    rows = [
        {
            "class_prompt": "barn",
            "instance_data_dir": "./benchmark_dataset/scene_barn",
            "prompt_filename": "prompts/barn.txt",
        },
        {"class_prompt": "cup", "instance_data_dir": "./benchmark_dataset/cup", "prompt_filename": "prompts/cup.txt"},
    ]
    (root / "dataset.json").write_text(json.dumps(rows))
    typed = pcs("bench", "init", "custom101", "bench", "--root", root, "--json")
    assert typed.code == 0, typed.err
    assert (typed.json["subjects"], typed.json["prompts"]) == (1, 2)
    assert "cup is missing" in typed.json["remarks"][0]


def test_the_unified_set_says_how_many_of_its_subjects_are_there(pcs: Pcs, tmp_path: Path) -> None:
    root = tmp_path / "unified"
    for place in ("objects", "faces"):
        (root / place).mkdir(parents=True)
        tiny.photos(root / place / "mug_3")
        (root / f"prompts-{place}.txt").write_text("a {} in the snow\n")
    typed = pcs("bench", "init", "pcs-unified", "bench", "--root", root, "--json")
    assert typed.code == 0, typed.err
    assert any("1 subjects instead of 15" in remark for remark in typed.json["remarks"])
    subjects = json.loads(Path("bench/benchmark.json").read_text())["subjects"]
    assert sorted((one["kind"], one["noun"]) for one in subjects) == [("face", "person"), ("object", "mug")]
    # Two of one folder name are two subjects.
    assert sorted(one["name"] for one in subjects) == ["faces-mug_3", "objects-mug_3"]


def test_a_job_is_done_once_and_the_table_says_what_was_run(pcs: Pcs, bench: Path, recipe: Path) -> None:
    words = ("-r", recipe, "-n", 2)
    plan = pcs("bench", "plan", bench, *words, "--json").json[str(recipe)]
    assert (plan["jobs"], plan["done"], plan["pictures"]) == (2, 0, 6)
    typed = pcs("bench", "run", bench, *words, "--shard", "0/2", "--json")
    assert typed.code == 0, typed.err
    assert typed.json == {"jobs": 1, "done": 1}
    pictures = {path: path.stat().st_mtime_ns for path in bench.rglob("pictures/*/*.png")}
    assert len(pictures) in (2, 4)
    assert pcs("bench", "run", bench, *words, "--json").json == {"jobs": 2, "done": 2}
    assert all(path.stat().st_mtime_ns == time for path, time in pictures.items())
    table = pcs("bench", "table", bench, "-r", recipe, "--json").json[f"{recipe} object"]
    assert {"clip_t", "dino_i", "clip_i", "copy"} <= set(table)
    shown = pcs("bench", "table", bench, "-r", recipe, "--format", "md").out
    assert shown.startswith("| recipe | kind | subjects |") and "2/2" in shown


def test_a_killed_bench_draws_no_finished_picture_again(pcs: Pcs, bench: Path, recipe: Path) -> None:
    words = ("bench", "run", bench, "-r", recipe, "-n", 2)
    assert pcs(*words).code == 0
    scores = sorted(bench.rglob("scores.json"))
    before = {path: path.read_bytes() for path in bench.rglob("pictures/*/*.png")}
    lost = sorted(before)[0]
    lost.unlink()
    next(path for path in scores if path.parent in lost.parents).unlink()
    times = {path: path.stat().st_mtime_ns for path in before if path != lost}
    assert pcs(*words).code == 0
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert lost.read_bytes() == before[lost], "the same noise draws the same bytes"


def test_a_finished_job_is_not_taken_for_one_of_another_recipe(pcs: Pcs, bench: Path, recipe: Path) -> None:
    assert pcs("bench", "run", bench, "-r", recipe, "-n", 1).code == 0
    assert pcs("bench", "run", bench, "-r", recipe, "-n", 2, "--metrics", "diversity").code == 0
    scores = [json.loads(path.read_text()) for path in bench.rglob("scores.json")]
    assert all("diversity" in {*one["metrics"], *one["not_run"]} and one["images"] == 2 for one in scores)
    recipe.write_text(recipe.read_text().replace("rank: 2", "rank: 3"))
    typed = pcs("bench", "run", bench, "-r", recipe, "-n", 2)
    assert typed.code == 2
    assert "was done by other numbers" in typed.message


def test_the_survey_stands_beside_and_fills_nothing(pcs: Pcs, bench: Path, recipe: Path) -> None:
    assert pcs("bench", "run", bench, "-r", recipe, "-n", 1).code == 0
    typed = pcs("bench", "table", bench, "-r", recipe, "--compare", "survey-table1", "--format", "csv")
    rows = [line.split(",") for line in typed.out.splitlines()]
    assert len(rows) == 24
    ours = next(row for row in rows if row[:3] == ["object", "DreamBooth", "SD 1.5"])
    assert ours[3].endswith("sd") and ours[4] == "0.286" and "not run" not in ours
    assert all(row[5] == row[8] == "not run" for row in rows[1:] if row is not ours)


def test_recipes_stand_side_by_side_on_a_page(pcs: Pcs, bench: Path, recipe: Path) -> None:
    assert pcs("bench", "report", bench, "-r", recipe).code == 2
    assert pcs("bench", "run", bench, "-r", recipe, "-n", 2).code == 0
    typed = pcs("bench", "report", bench, "-r", recipe, "-n", 2, "--json")
    assert typed.code == 0, typed.err
    assert "data:image/webp" in Path(typed.json["page"]).read_text()


def test_mini_is_rendered_as_a_benchmark(pcs: Pcs) -> None:
    typed = pcs("bench", "init", "mini", "bench", "--subjects", 2, "--json")
    assert typed.code == 0, typed.err
    subjects = json.loads(Path("bench/benchmark.json").read_text())["subjects"]
    assert [one["name"] for one in subjects] == ["mug", "teapot"]
    assert all(len(list(Path(one["photos"]).glob("*.png"))) == 5 for one in subjects)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "dreambnch", "new"], '"dreambench"'),
        (["init", "dreambench", "new"], "--root"),
        (["init", "dreambench", "new", "--root", "."], "prompts_and_classes.txt"),
        (["run", "nowhere"], "pcs bench init"),
        (["run", "bench", "--shard", "8/8"], '--shard "8/8"'),
        (["run", "bench", "--metrics", "beauty"], '"beauty"'),
        (["table", "bench", "--compare", "table2"], "survey-table1"),
    ],
)
def test_what_is_wrong_is_named(pcs: Pcs, bench: Path, words: list[str], said: str) -> None:
    typed = pcs("bench", *words)
    assert typed.code == 2
    assert said in typed.message
