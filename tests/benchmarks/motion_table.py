"""Scores of the clips that tests/benchmarks/motion.py has drawn, and their table."""

from __future__ import annotations

from pathlib import Path


def place(folder: Path, motion: str, arm: str, index: int) -> Path:
    """Where one drawn clip lies."""
    return folder / motion.replace(" ", "-") / arm.replace(" ", "-") / f"{index}.npz"


def table(folder: Path, motions: tuple[str, ...], arms: tuple[str, ...], subjects: int) -> str:
    return ""
