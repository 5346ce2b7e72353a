"""`pcs protect`: photos in, the same photos with a perturbation that makes training on them work worse."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.console import console, minutes
from pcs_cli.options import Base, DryRun, Json, Offline, Quiet, Resume, Set, recipe_for, resumable

if TYPE_CHECKING:
    from protect.protect import Plan
    from protect.recipe import Protection

PARTIAL = 1


def protect(
    photos: Annotated[Path, typer.Argument(help="Folder of photos, folders in it included; it is only read.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the protected files.")],
    noun: Annotated[str, typer.Option("--noun", help="What the photos show, in a word.")] = "person",
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A protect/ name of `pcs recipes list`, or a YAML file.")
    ] = "protect/default",
    eps: Annotated[
        float | None, typer.Option("--eps", help="Largest change of a colour value, in levels of 0..255.")
    ] = None,
    base: Base = None,
    changes: Set = [],  # noqa: B006
    resume: Resume = False,
    strict: Annotated[bool, typer.Option("--strict", help="Start only if every picture can be protected.")] = False,
    dry_run: DryRun = False,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make training a personal model on your photos work worse, by a change of a few levels a pixel.

    Every file keeps its name, format, size, depth, alpha, orientation and metadata; the change is kept to the budget
    in the saved file, read again. protect.json says what was done to which file. `pcs audit` measures what it is worth.

    Protection here means: training a personal model on these files, with the methods and models we tested, worked
    worse in our test. It does not make a photo unusable, and it can be undone: noise plus upscaling, diffusion
    purification, sometimes blur or JPEG remove it, and a new model or method may ignore it. It does nothing for photos
    already published, for a set in which some photos are unprotected, for tools that need no training, nor for
    recognition or search. The change is visible at higher strength: look before publishing, and keep your originals.
    Do not use it as your only safeguard.

    Example: pcs protect photos/me -o photos/me-safe
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline)
    from modalities.core import bases
    from modalities.core.concept import checked_noun
    from protect.recipe import Protection

    if eps is not None:
        changes = [*changes, f"budget.levels={eps}"]
    chosen = recipe_for("protect", recipe, changes, base)
    assert isinstance(chosen, Protection)
    noun = checked_noun(noun)
    for name in (chosen.backbone, *chosen.ensemble):
        bases.resolve(name)

    from protect import protect as work

    place = machine.machine()
    if dry_run:
        with console.progress() as progress:
            made = work.plan(chosen, photos, out, place, noun=noun, progress=progress)
        _tell_plan(chosen, photos, out, made)
        console.result(asdict(made))
        return
    with console.progress() as progress, resumable(out):
        record = work.protect(
            chosen,
            photos,
            out,
            place,
            noun=noun,
            resume=resume,
            strict=strict,
            progress=progress,
            announce=lambda plan: _tell_plan(chosen, photos, out, plan),
        )
    _tell_result(record, photos, out)


def _tell_plan(recipe: Protection, photos: Path, out: Path, plan: Plan) -> None:
    console.facts(
        recipe.title,
        {
            "photos": f"{plan.photos} of {photos}, in {plan.groups} group{'s' if plan.groups > 1 else ''}",
            "base": ", ".join((recipe.backbone, *recipe.ensemble)),
            "device": plan.device,
            "budget": f"{plan.levels:g} of 255 levels, on the saved file",
            "plan": f"{plan.pushes} steps and {plan.trainings} of the surrogate a group, {minutes(plan.seconds)}, "
            f"{plan.memory_mb / 1000:.1f} GB memory",
            "writes": str(out),
        },
    )


def _tell_result(record: dict[str, Any], photos: Path, out: Path) -> None:
    """The files, what was left out, and the exit code of partial work."""
    done = {name: about for name, about in record["files"].items() if about["protected"]}
    for name, reason in record["skipped"].items():
        console.warn(f"{name} is not protected: it {reason}.")
    console.result(
        {**record, "out": str(out), "protected": len(done)},
        [
            f"protected  {len(done)} of {len(done) + len(record['skipped'])} photos in {out}",
            f"record     {out / 'protect.json'}",
            *([] if record["lpips"] == "measured" else [f"LPIPS      not measured: {record['lpips']}"]),
            "It can be undone, and does nothing for published photos; see pcs protect --help.",
            f"next       pcs audit {photos} {out}",
        ],
    )
    if record["skipped"]:
        raise typer.Exit(PARTIAL)
