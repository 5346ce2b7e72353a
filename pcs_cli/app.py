"""The command `pcs`: parses what was typed, and turns a user's mistake into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 bad input or usage (nothing was started), 3 a gate was missed,
130 interrupted and resumable.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated, Any

import typer

from modalities.core.errors import Interrupted, PcsError
from pcs_cli import (
    audit,
    base,
    bench,
    doctor,
    evaluate,
    generate,
    inspect,
    merge,
    protect,
    recipes,
    three_d,
    train,
    video,
    world,
)
from pcs_cli.console import console

# Typer carries a click of its own in some versions; this is the base of its usage errors in all of them.
UsageError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="pcs",
    help="Personalized content synthesis: teach a model your own subject from a few photos, then put it anywhere.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(train.app, name="train")
app.add_typer(three_d.app, name="3d")
app.command("generate")(generate.generate)
app.command("merge")(merge.merge)
app.command("eval")(evaluate.evaluate)
app.command("protect")(protect.protect)
app.command("audit")(audit.audit)
app.add_typer(video.app, name="video")
app.add_typer(bench.app, name="bench")
app.add_typer(recipes.app, name="recipes")
app.add_typer(base.app, name="base")
app.add_typer(world.app, name="world")
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        console.result_text(metadata.version("pcs-cli"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Personalized content synthesis."""


def main() -> None:
    """Run the command line; the only place where exceptions become exit codes."""
    # Tokenizers warn about forks, and Hub libraries would phone home; neither is asked for here.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Importing torch and its kin makes a million objects that stay; looking through them again and again took an
    # eighth of the start-up.
    gc.set_threshold(100_000, 50, 1000)
    code = run()
    gc.freeze()
    sys.exit(code)


def run() -> int:
    """Run the command line and return its exit code."""
    try:
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except Interrupted as stopped:
        console.interrupted(str(stopped), stopped.resume)
        return Interrupted.exit_code
    except PcsError as mistake:
        console.error(str(mistake), mistake.exit_code)
        return mistake.exit_code
    except UsageError as usage:
        # A group without a command shows its help; everything else is one line.
        say = console.help if type(usage).__name__ == "NoArgsIsHelpError" else console.error
        say(usage.format_message(), 2)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        console.interrupted("stopped.", "")
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
