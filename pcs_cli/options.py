"""Options that several commands share."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from modalities.core.recipe import Recipe

Json = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout, for scripts.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Never use the network; a promise, not a preference. Also PCS_OFFLINE=1."),
]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, e.g. train.steps=200. May be repeated."),
]


def from_anywhere(base: str | None) -> str | None:
    """A base as the user calls it; a folder by its whole path, for what begins with it may go on from elsewhere."""
    if base is None:
        return None
    from modalities.core import bases

    return str(Path(base).resolve()) if base not in bases.entries() and Path(base).is_dir() else base


Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Base model: a name of `pcs base list`, a diffusers folder, or a Hub id.",
        callback=from_anywhere,
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the work in --out.")]
COMMANDS = {"image": "pcs train image", "video": "pcs video customize", "three_d": "pcs 3d", "protect": "pcs protect"}
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]


def recipe_for(modality: str, name: str, changes: list[str], base: str | None = None) -> Recipe:
    """The recipe that was asked for, with the changes and on the base that were.

    Raises:
        PcsError: it is for another command, or is wrong.
    """
    from modalities.core import recipe as recipes
    from modalities.core import recipe_text
    from modalities.core.errors import PcsError

    chosen = recipes.load(name, recipe_text.changes_of(changes), backbone=base)
    chosen = chosen.model_copy(update={"backbone": from_anywhere(chosen.backbone)})
    if chosen.modality != modality:
        raise PcsError(
            f'recipe "{name}" is for {chosen.modality}; take one of `pcs recipes list` for {modality}, '
            f"or use `{COMMANDS[chosen.modality]}`."
        )
    return chosen


def weighted(text: str) -> tuple[Path, float]:
    """Read PATH or PATH:WEIGHT; the weight is 1 where none is given."""
    match = re.fullmatch(r"(.+):(-?\d*\.?\d+)", text)
    return (Path(match[1]), float(match[2])) if match else (Path(text), 1.0)


@contextmanager
def resumable(folder: Path, flag: str = "--resume") -> Generator[None]:
    """Give an interruption of the work in `folder` the command that goes on: what was typed, --out and the flag."""
    from modalities.core.errors import Interrupted

    try:
        yield
    except Interrupted as stopped:
        words = ["pcs", *(word for word in sys.argv[1:] if word != flag)]
        if not {"--out", "-o"} & set(words) and not any(word.startswith("--out=") for word in words):
            words += ["--out", str(folder)]
        stopped.resume = shlex.join([*words, *([flag] if flag else [])])
        raise
