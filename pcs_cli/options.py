"""Options that several commands share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

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
Base = Annotated[
    str | None,
    typer.Option("--base", help="Base model: a name of `pcs base list`, a diffusers folder, or a Hub id."),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write.")]


def resume_command() -> str:
    """The command that was typed, with --resume."""
    return shlex.join(["pcs", *(word for word in sys.argv[1:] if word != "--resume"), "--resume"])
