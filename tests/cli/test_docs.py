"""The commands and code of the documents do what they say, as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "docs/evaluation.md",
    "docs/first-dog.md",
    "docs/add-a-paper.md",
    "docs/add-a-backbone.md",
    "docs/design.md",
    "docs/protect.md",
    "docs/3d.md",
    "docs/video.md",
]
# What makes a documented training short enough for a test; everything else is as written.
SHORT = [
    "--set",
    "train.steps=2",
    "--set",
    "sample.steps=1",
    "--set",
    "validation.every=1",
    "--set",
    "validation.images=1",
]


def _blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def _commands(document: str) -> list[str]:
    return [line for block in _blocks(document, "sh") for line in block.splitlines() if line.startswith("pcs ")]


def test_there_is_something_to_run() -> None:
    assert len(_commands("docs/first-dog.md")) >= 8
    assert _blocks("docs/add-a-backbone.md", "python")


@pytest.mark.parametrize("document", ["README.md", "docs/evaluation.md", "docs/first-dog.md", "docs/mini.md"])
def test_commands_run_in_order(document: str, tmp_path: Path) -> None:
    tiny.photos(tmp_path / "photos" / "rex")
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path), "PCS_OFFLINE": "1"}
    for command in _commands(document):
        words = command
        if command.startswith("pcs train"):
            place = command.find(" > ") if " > " in command else len(command)
            words = f"{command[:place]} {shlex.join(SHORT)}{command[place:]}"
        done = subprocess.run(
            ["bash", "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_blocks_run(document: str) -> None:
    for block in _blocks(document, "python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_the_recipe_in_the_guide_is_one(tmp_path: Path) -> None:
    from modalities.core import recipe

    (block,) = _blocks("docs/add-a-paper.md", "yaml")
    (tmp_path / "guide.yaml").write_text(block)
    assert recipe.load(str(tmp_path / "guide.yaml")).component("lora")


def test_the_page_of_recipes_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pcs_cli", "recipes", "list", "--markdown"], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs" / "recipes.md").read_text() == done.stdout


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target
