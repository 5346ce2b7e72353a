"""A protection that was killed and gone on with writes the bytes of one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modalities.core.errors import PcsError
from protect.folder import read_record
from tests import protect_driver, tiny


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("whole")
    photos = tiny.photos(folder / "photos", count=3)
    protect_driver.protect(folder / "out", base, photos)
    return folder / "out", photos


@pytest.mark.parametrize("where", ["step 25", "file 1"])
def test_killed_and_resumed_equals_uninterrupted(
    where: str, whole: tuple[Path, Path], base: Path, tmp_path: Path
) -> None:
    uninterrupted, photos = whole
    words = [
        sys.executable,
        "-m",
        "tests.protect_driver",
        str(tmp_path / "out"),
        str(base),
        str(photos),
        *where.split(),
    ]
    killed = subprocess.run(words, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    record = read_record(tmp_path / "out")
    assert record is None or record["state"] == "running"
    protect_driver.protect(tmp_path / "out", base, photos, resume=True)
    before, after = files(uninterrupted), files(tmp_path / "out")
    assert set(before) == set(after)
    assert [name for name in before if before[name] != after[name]] == []
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_the_same_seed_gives_the_same_bytes_and_each_group_stands_alone(
    whole: tuple[Path, Path], base: Path, tmp_path: Path
) -> None:
    uninterrupted, photos = whole
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "02.png").write_bytes((photos / "02.png").read_bytes())
    protect_driver.protect(tmp_path / "out", base, alone)
    assert (tmp_path / "out" / "02.png").read_bytes() == (uninterrupted / "02.png").read_bytes()


def test_other_work_is_not_gone_on_with(whole: tuple[Path, Path], base: Path, tmp_path: Path) -> None:
    uninterrupted, _ = whole
    with pytest.raises(PcsError, match="cannot resume, the photos"):
        protect_driver.protect(uninterrupted, base, tiny.photos(tmp_path / "other", count=2, seed=5), resume=True)
