"""`pcs train image`: photos in, a run folder out."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from pcs_cli.console import console, minutes
from pcs_cli.options import Base, DryRun, Json, Offline, Out, Quiet, Resume, Set, recipe_for, resumable

if TYPE_CHECKING:
    from modalities.core.artifact import Artifact
    from modalities.core.concept import Concept
    from modalities.core.machine import Machine
    from modalities.core.personalize import Plan
    from modalities.core.recipe import Recipe

app = typer.Typer(help="Learn a subject from photos.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Learn a subject from photos."""


@app.command("image")
def image(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTOS...", help="Folder with 3 to 10 photos of a subject, one for each.")
    ],
    noun: Annotated[
        list[str],
        typer.Option("--noun", metavar="NOUN", help="What it is, in a word: dog, backpack, man; one for each folder."),
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A name of `pcs recipes list`, or a YAML file.")
    ] = "image/dreambooth_lora",
    base: Base = None,
    changes: Set = [],  # noqa: B006
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    preview: Annotated[bool, typer.Option("--preview", help="Draw photos and masks as used, and stop.")] = False,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn a subject from a folder of photos, or several subjects together, each from its own.

    Writes a run folder: the weights, the same weights for diffusers, kohya and ComfyUI, previews, a contact sheet
    and report.html. The photos are only read.

    Example: pcs train image photos/rex --noun dog

    Example: pcs train image photos/rex photos/mug --noun dog --noun mug -r custom_diffusion
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline)
    from modalities.core import bases
    from modalities.core.concept import checked_noun
    from modalities.core.errors import PcsError

    if len(noun) != len(photos):
        raise PcsError(f"--noun is given {len(noun)} times for {len(photos)} folders; give one for each, in order.")
    nouns = [checked_noun(one) for one in noun]
    chosen = recipe_for("image", recipe, changes, base)
    bases.resolve(chosen.backbone)
    concept = _concept(chosen, photos, nouns)
    console.photos(concept)
    folder = out or machine.runs / ("-".join(one.resolve().name for one in photos) or "run")

    from modalities.core import personalize

    place = machine.machine()
    if preview:
        _tell_preview(chosen, concept, place, Path(f"{folder.name}-preview.png"))
        return
    if dry_run:
        with console.progress() as progress:
            made = personalize.plan(chosen, concept, place, progress)
        _tell_plan(chosen, concept, folder, made)
        console.result(asdict(made))
        return
    with console.progress() as progress, resumable(folder):
        run = personalize.personalize(
            chosen,
            concept,
            folder,
            place,
            resume=resume,
            progress=progress,
            announce=lambda plan: _tell_plan(chosen, concept, folder, plan),
        )
    _tell_result(run)


def _concept(recipe: Recipe, photos: list[Path], nouns: list[str]) -> Concept:
    """Read the photos of every subject."""
    from modalities.core.concept import Concept

    words, side = recipe.data.subject, recipe.data.resolution or 0
    return Concept.together(
        [
            Concept.from_folder(folder, noun=word, subject=words, number=number, resolution=side)
            for number, (folder, word) in enumerate(zip(photos, nouns, strict=True), start=1)
        ]
    )


def _tell_preview(recipe: Recipe, concept: Concept, machine: Machine, path: Path) -> None:
    from modalities.core import media
    from modalities.core.preview import preview

    seen = preview(recipe, concept, machine)
    media.save_png(seen.sheet, path)
    lines = [f"preview        {path}"]
    if seen.areas:
        lines.append(f"masks          {len(seen.areas)} of {len(seen.areas)}, mean area {fmean(seen.areas):.0%}")
    console.result({"preview": str(path), "mask_areas": seen.areas}, lines)


def _tell_plan(recipe: Recipe, concept: Concept, folder: Path, plan: Plan) -> None:
    console.facts(
        recipe.title,
        {
            "subject": "; ".join(f"{one.phrase}, {len(one.photos)} photos" for one in concept.subjects),
            "base": recipe.backbone,
            "device": plan.device,
            "learns": f"{plan.learned:,} numbers in {', '.join(plan.learners)}",
            "plan": f"at most {plan.steps} steps, {minutes(plan.seconds)}, {plan.memory_mb / 1000:.1f} GB memory",
            "writes": f"{folder}, up to {plan.disk_mb:.0f} MB",
        },
    )


def _tell_result(run: Artifact) -> None:
    about = run.about()
    kept = about["kept"]
    slots = "{1} beside a {2}" if run.concept().others else "{}"
    console.result(
        {
            "run": str(run.folder),
            "steps": about["steps"],
            "kept_step": about["kept_step"],
            "scores": {name: kept[name] for name in ("loss", "subject", "text", "drift", "balance")},
            "seconds": about["seconds"],
            "peak_memory_mb": about["peak_memory_mb"],
            "weights": str(run.weights_file),
            "portable": [str(run.portable / name) for name in about["portable"]],
            "contact_sheet": str(run.contact_sheet),
            "report": str(run.report),
        },
        [
            f"run            {run.folder}  (kept step {about['kept_step']}, {about['seconds']:.0f} s)",
            f"contact sheet  {run.contact_sheet}",
            f"report         {run.report}",
            f'next           pcs generate {shlex.quote(str(run.folder))} "a {slots} in the snow" -n 4',
        ],
    )
