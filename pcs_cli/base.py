"""`pcs base`: the models that everything else stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pcs_cli.console import console
from pcs_cli.options import Json, Offline, Out, Quiet

app = typer.Typer(help="List, check and build base models.", no_args_is_help=True)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the base models known by name; any diffusers folder or Hub id works as well."""
    console.setup(json=json)
    from pcs_cli import settings

    settings.load()
    from modalities.core import bases

    known = {name: bases.resolve(name) for name in bases.entries()}
    console.result_table(
        ["base", "here", "source"],
        [[name, "yes" if one.here() else "no", "embedded" if one.local else one.source] for name, one in known.items()],
        {name: {"here": one.here(), "source": one.source, "title": one.title} for name, one in known.items()},
    )


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A name of `pcs base list`, a diffusers folder, or a Hub id.")],
    draw: Annotated[
        bool, typer.Option("--draw", help="Also let an embedded base draw held-out scenes and judge them; minutes.")
    ] = False,
    photos: Annotated[
        Path | None, typer.Option(help="With --draw: also say how well the autoencoder keeps these photos.")
    ] = None,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Load a base, let it encode, predict and decode once, and say what it is."""
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline).machine()
    from modalities.core import bases

    base = bases.resolve(name)
    facts = bases.trial(base, machine.device, offline=machine.offline)
    if draw:
        with bases.quiet():
            from modalities.mini import check as drawings

            folder = Path(base.source)
            facts |= drawings.check(folder, photos=photos)
            facts |= drawings.check_encoders(folder) | drawings.check_video(folder)
    console.result(facts, _lines(facts))


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Names and values, a value that is a group of its own indented below its name."""
    lines: list[str] = []
    for key, value in facts.items():
        name = indent + key.replace("_", " ")
        if isinstance(value, dict):
            lines += [name, *_lines(value, indent + "  ")]
        else:
            lines.append(f"{name:26}  {format(value, '.3f') if isinstance(value, float) else value}")
    return lines


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="The base to build: mini.")],
    out: Out = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that share the work, one thread each; at most one per core.")
    ] = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train an embedded base from nothing, by the fixed recipe that made the shipped one.

    Takes about sixteen hours of one CPU core. Stop it at any time; the same command goes on where it stopped.
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    chosen = settings.load()
    from modalities.core import bases
    from modalities.core.errors import PcsError, did_you_mean

    built = {known: path for known, path in bases.entries().items() if "build" in bases.entry(known)}
    if name not in built:
        raise PcsError(f'no recipe builds a base "{name}"; {did_you_mean(name, built)}')
    with bases.quiet():
        from modalities.mini.build import build as build_base
    from modalities.mini.settings import load as load_build

    recipe = load_build(built[name])
    folder = out or Path("bases") / name
    device = chosen.machine().device
    console.facts(
        f"building {name}, edition {recipe.edition}",
        {
            "pictures": f"{recipe.world.pictures:,} of {recipe.size}x{recipe.size} pixels, rendered",
            "device": device.title,
            "works in": str(chosen.cache / "mini"),
            "writes": str(folder),
        },
    )
    with console.progress() as progress, bases.quiet():
        facts = build_base(recipe, folder, chosen.cache, progress, device.kind, processes)
    console.result({"base": str(folder), **facts}, [f"base  {folder}", *_lines(facts)])
