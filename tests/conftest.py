"""Shared tiny models and photos, made once for a test session, and a way to type commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion folder, epsilon prediction."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of a tiny subject encoder and a tiny CLIP."""
    return tiny.encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photos."""
    return tiny.photos(tmp_path / "photos")


@dataclass(frozen=True)
class Typed:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one JSON object."""
        return json.loads(self.out)

    @property
    def message(self) -> str:
        """Its error line without the label."""
        return self.err.split("error: ", 1)[1].strip()


@pytest.fixture
def pcs(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    encoders: tuple[str, str],
) -> Callable[..., Typed]:
    """Type a `pcs` command in this process, in a folder and with a cache of its own."""
    from pcs_cli import app
    from pcs_cli.console import console

    monkeypatch.setenv("PCS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PCS_SUBJECT_ENCODER", encoders[0])
    monkeypatch.setenv("PCS_CLIP", encoders[1])
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def typed(*words: object) -> Typed:
        monkeypatch.setattr(sys, "argv", ["pcs", *map(str, words)])
        console.setup()
        monkeypatch.setattr(console, "_rich", None)
        capfd.readouterr()
        code = app.run()
        captured = capfd.readouterr()
        return Typed(code, captured.out, captured.err)

    return typed
