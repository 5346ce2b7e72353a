"""A run that was killed and resumed is, bit for bit, the run that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modalities.core import personalize
from modalities.core.artifact import Artifact
from tests import driver, tiny

RESULTS = ("weights.safetensors", "metrics.jsonl", "contact-sheet.png")


def _results(run: Artifact) -> dict[str, bytes]:
    files = [run.folder / name for name in RESULTS]
    files += sorted(run.samples.glob("*.png")) + sorted(run.portable.glob("*.safetensors"))
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(base: Path, encoders: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    folder = tmp_path_factory.mktemp("whole")
    photos = tiny.photos(folder / "photos")
    return driver.train(folder / "run", base, photos, encoders), photos


@pytest.mark.parametrize(
    "where", ["step 1", "step 2", "step 5", "step 11", "checkpoint 1", "checkpoint 4", "weights 2"]
)
def test_killed_and_resumed_equals_uninterrupted(
    where: str,
    whole: tuple[Artifact, Path],
    base: Path,
    encoders: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uninterrupted, photos = whole
    killed = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.driver",
            str(tmp_path / "run"),
            str(base),
            str(photos),
            *encoders,
            where,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert Artifact(tmp_path / "run").about()["state"] == "training"
    monkeypatch.setattr(personalize, "CHECKPOINT_SECONDS", 0.0)
    resumed = driver.train(tmp_path / "run", base, photos, encoders, resume=True)
    before, after = _results(uninterrupted), _results(resumed)
    assert set(before) == set(after)
    assert [name for name in before if before[name] != after[name]] == []
    assert resumed.about()["kept_step"] == uninterrupted.about()["kept_step"]
    assert not resumed.checkpoint_file.exists()


def test_a_finished_run_resumes_to_itself(whole: tuple[Artifact, Path], base: Path, encoders: tuple[str, str]) -> None:
    run, photos = whole
    before = _results(run)
    again = driver.train(run.folder, base, photos, encoders, resume=True)
    assert _results(again) == before
