"""`pcs 3d`: photos or a word in, a NeRF with its turntable and its mesh out."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.console import console, minutes
from pcs_cli.options import Base, DryRun, Json, Offline, Out, Quiet, Resume, Set, recipe_for, resumable

if TYPE_CHECKING:
    from PIL.Image import Image

    from modalities.core.personalize import Plan
    from modalities.core.recipe import Recipe
    from modalities.core.studio import Studio
    from modalities.three_d.outputs import Handed

app = typer.Typer(help="Make a 3D object of a subject: NeRF, turntable, GLB.", no_args_is_help=True)

Run = Annotated[Path, typer.Argument(help="A run folder of `pcs 3d`.")]
FEW_PHOTOS = 3
# What stages count that do not take steps.
COUNTED = {"pseudo": "views", "registered": "photos"}


@app.command()
def dreambooth3d(
    photos: Annotated[Path, typer.Argument(help="Folder with 3 to 10 photos of one subject.")],
    noun: Annotated[str, typer.Option("--noun", help="What it is, in a word: dog, backpack, mug.")],
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="A 3D recipe with the component dreambooth.")] = (
        "three_d/dreambooth3d"
    ),
    base: Base = None,
    changes: Set = [],  # noqa: B006
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn a subject from photos in the three stages of DreamBooth3D, in two, or with the photos as views.

    Writes a run folder with the stages in it, one folder each, and of the last one turntable.gif, mesh.glb, mesh.obj,
    points.ply and a contact sheet. The photos are only read. Pictures in 04_pseudo/images may be deleted by hand
    before 05_multiview is made, and those in 03_registered/images before the scene that looks like them.

    Example: pcs 3d dreambooth3d photos/rex --noun dog -r photo_views
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline)
    from modalities.core import bases
    from modalities.core.artifact import Artifact
    from modalities.core.concept import Concept, checked_noun

    word = checked_noun(noun)
    chosen = recipe_for("three_d", recipe, changes, base)
    bases.resolve(chosen.backbone)

    from modalities.three_d.dreambooth3d import DreamBooth3D, last_scene, subject_of
    from modalities.three_d.session import open_scene

    concept = Concept.from_folder(photos, noun=word, subject=subject_of(chosen))
    console.photos(concept)
    if len(concept.photos) < FEW_PHOTOS:
        console.warn(
            "so few photos leave most sides of the subject unseen; what is not seen is what the class looks like."
        )
    folder = out or machine.runs / f"{photos.resolve().name}-3d"
    place = machine.machine()
    if dry_run:
        with console.progress() as progress:
            stages = DreamBooth3D(chosen, concept, folder, place, progress).plan()
        _tell_stages(chosen, concept.phrase, folder, stages)
        console.result({name: {"count": count, "seconds": seconds} for name, (count, seconds) in stages.items()})
        return
    with console.progress() as progress, resumable(folder):
        notes = DreamBooth3D(chosen, concept, folder, place, progress).run(resume=resume)
        progress.start("drawing the turntable, meshing", 0)
        scene = open_scene(Artifact.open(last_scene(folder)), place)
        handed = _hand_over(scene, folder, [photo.open() for photo in concept.photos])
    seconds = sum(note["seconds"] for note in notes)
    _tell(folder, handed, seconds, {"stages": {note["stage"]: note["scores"] for note in notes}})


@app.command()
def dreamfusion(
    noun: Annotated[str | None, typer.Argument(help="What to make, in a word: duck. Not with --run.")] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="A run folder of `pcs train image`: its subject is what is made.")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="A 3D recipe.")] = "three_d/dreamfusion",
    base: Base = None,
    changes: Set = [],  # noqa: B006
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a scene from a word, or of the subject of a run, by score distillation.

    Example: pcs 3d dreamfusion duck

    Example: pcs 3d dreamfusion --run runs/rex
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline)
    from modalities.core import bases
    from modalities.core.artifact import Artifact
    from modalities.core.concept import Concept, checked_noun
    from modalities.core.errors import PcsError

    if (noun is None) == (run is None):
        raise PcsError("give a word (pcs 3d dreamfusion duck) or --run RUN, one of both.")
    prior = Artifact.open(run) if run else None
    if prior and base:
        raise PcsError("--base: the run brings its own base; leave the option away.")
    if prior and (prior.recipe().modality != "image" or prior.about()["state"] != "finished"):
        raise PcsError(f"--run {run}: is not a finished run of `pcs train image`.")
    chosen = recipe_for("three_d", recipe, changes, prior.recipe().backbone if prior else base)
    bases.resolve(chosen.backbone)
    concept = prior.concept() if prior else Concept(checked_noun(noun or ""), checked_noun(noun or ""))
    name = f"{run.resolve().name}-3d" if run else f"{concept.noun.replace(' ', '-')}-3d"
    folder = out or machine.runs / name

    from modalities.three_d.session import open_scene, optimize, plan

    place = machine.machine()
    if dry_run:
        with console.progress() as progress:
            planned = plan(chosen, concept, place, prior, progress)
        _tell_plan(chosen, concept.phrase, folder, planned)
        console.result(asdict(planned))
        return
    with console.progress() as progress, resumable(folder):
        made = optimize(
            chosen,
            concept,
            folder,
            place,
            prior=prior,
            resume=resume,
            progress=progress,
            announce=lambda plan: _tell_plan(chosen, concept.phrase, folder, plan),
        )
        progress.start("drawing the turntable, meshing", 0)
        handed = _hand_over(open_scene(made, place), folder, [])
    _tell(folder, handed, made.about()["seconds"], {"steps": made.about()["steps"]})


@app.command()
def render(
    run: Run,
    frames: Annotated[int, typer.Option("-n", min=2, max=360, help="Frames of the turn.")] = 24,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side in pixels.")] = 128,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw the turntable of a finished scene again, larger or with more frames.

    Example: pcs 3d render runs/rex-3d -n 60 --size 256
    """
    console.setup(json=json, quiet=quiet)
    from modalities.core.files import require_writable
    from modalities.three_d.outputs import write_turntable

    require_writable(out or run, megabytes=5)
    gif, film = write_turntable(_opened(run), out or run, frames=frames, side=size)
    console.result({"turntable": str(gif), "film": str(film)}, [str(gif), str(film)])


@app.command()
def export(
    run: Run,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="glb, obj or ply alone; or nerfstudio: a run that ns-viewer, ns-render and ns-export open.",
        ),
    ] = None,
    cells: Annotated[int, typer.Option(min=16, max=512, help="Cells a side of the grid that is meshed.")] = 96,
    faces: Annotated[int, typer.Option(min=100, help="About how many triangles are kept.")] = 10_000,
    size: Annotated[float, typer.Option(min=0.001, help="Longest side of the mesh in metres.")] = 1.0,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Mesh a finished scene again, finer, lighter or of another size: mesh.glb, mesh.obj and points.ply.

    With --format nerfstudio it is written as a run of nerfstudio instead, which needs the extra [3d].

    Example: pcs 3d export runs/rex-3d --cells 160 --size 0.3

    Example: pcs 3d export runs/rex-3d --format nerfstudio
    """
    console.setup(json=json, quiet=quiet)
    from modalities.core.errors import PcsError
    from modalities.core.files import require_writable
    from modalities.three_d.outputs import solid_of, write_solid

    folder = out or run
    require_writable(folder, megabytes=5)
    if form == "nerfstudio":
        return _to_nerfstudio(run, folder)
    if form not in (None, "glb", "obj", "ply"):
        raise PcsError(f'--format is glb, obj, ply or nerfstudio, not "{form}".')
    solid = solid_of(_opened(run), cells=cells, faces=faces, size=size)
    files = [str(path) for path in write_solid(solid, folder, form)]
    mesh = solid.mesh
    if not mesh.is_closed:
        console.warn("the mesh has holes or touches itself; printing or cutting it may fail.")
    metres = [round(float(side), 4) for side in mesh.vertices.max(0) - mesh.vertices.min(0)]
    told = {"vertices": len(mesh.vertices), "faces": len(mesh.faces), "closed": mesh.is_closed, "metres": metres}
    sides = " x ".join(f"{side:g}" for side in metres)
    said = f"{len(mesh.faces):,} triangles, texture {len(solid.picture)} x {len(solid.picture)}, {sides} m"
    console.result({"files": files, "texture": len(solid.picture)} | told, [*files, said])
    return None


def _to_nerfstudio(run: Path, folder: Path) -> None:
    """Write `folder`/nerfstudio and say what opens it."""
    from modalities.core.artifact import Artifact
    from modalities.three_d.dreambooth3d import STAGES, last_scene
    from modalities.three_d.extra import lacking, require_nerfstudio
    from modalities.three_d.outputs import rendered_views
    from modalities.three_d.pseudo_views import PseudoViews

    require_nerfstudio()
    from modalities.three_d.nerfstudio import write_run

    scene = _opened(run)
    pseudo = run / STAGES[3]
    views = PseudoViews.read(pseudo) if pseudo.is_dir() else rendered_views(scene)
    steps = Artifact(last_scene(run)).about()["steps"]
    config = write_run(scene, views, folder, steps=steps)
    for warning in lacking():
        console.warn(warning)
    data, checkpoints = config.parents[2] / "data", config.parent / "nerfstudio_models"
    told = {"config": str(config), "data": str(data), "checkpoints": str(checkpoints)}
    quoted = {name: shlex.quote(path) for name, path in told.items()}
    console.result(
        told,
        [
            f"ns-viewer --load-config {quoted['config']}",
            f"ns-train pcs --data {quoted['data']} --load-dir {quoted['checkpoints']}",
        ],
    )


@app.command("eval")
def evaluate(
    run: Run,
    photos: Annotated[
        Path | None, typer.Option("--photos", help="Photos to compare with; those that the run learned, if not given.")
    ] = None,
    other: Annotated[
        Path | None, typer.Option("--other", help="Photos of another such subject: the floor of likeness.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a finished scene: likeness by azimuth, its word, one face or two, and the mini world's truth.

    The true shape is the file subject.npz that `pcs world subject --solid` writes beside photos/, and views/ there
    holds true pictures from elsewhere.

    Example: pcs 3d eval runs/rex-3d
    """
    console.setup(json=json, quiet=quiet)
    from modalities.core.concept import Concept
    from modalities.three_d.evaluate import evaluate as measure
    from pcs_cli import settings

    scene = _opened(run)
    compared, truth = _photos_of(run, photos)
    others = [photo.open() for photo in Concept.from_folder(other, noun="other").photos] if other else []
    scores = measure(scene, compared, settings.load(offline=True).machine().encoders(), truth, others)
    rows = [[f"likeness, {name}", f"{value:.3f}"] for name, value in scores.likeness.items()]
    rows += [
        [name, "-" if value is None else f"{value:.3f}"]
        for name, value in (
            ("photos among themselves", scores.ceiling),
            ("photos to the other's", scores.floor),
            (f"word found among {scores.among}", scores.precision),
            ("view words right", scores.view_words),
            ("neighbouring views alike", scores.neighbour),
            ("opposite views alike", scores.opposite),
            ("IoU with the truth", scores.iou),
            ("Chamfer to the truth", scores.chamfer),
            ("outlines like the truth's", scores.outlines),
            ("PSNR of true views, dB", scores.psnr),
        )
    ]
    console.result_table(["score", "value"], rows, scores.told())


def _opened(folder: Path) -> Studio:
    """The scene of a run, or of the last stage of one."""
    from modalities.core.artifact import Artifact
    from modalities.core.errors import PcsError
    from modalities.three_d.dreambooth3d import last_scene
    from modalities.three_d.session import open_scene
    from pcs_cli import settings

    run = Artifact.open(last_scene(folder))
    if run.recipe().modality != "three_d":
        raise PcsError(f"{folder}: is a run of pictures; make a scene of it with `pcs 3d dreamfusion --run {folder}`.")
    return open_scene(run, settings.load(offline=True).machine())


def _hand_over(scene: Studio, folder: Path, photos: list[Image]) -> Handed:
    from modalities.core.artifact import Artifact
    from modalities.three_d.outputs import write_all

    return write_all(scene, Artifact(folder), photos)


def _tell_plan(recipe: Recipe, phrase: str, folder: Path, plan: Plan) -> None:
    console.facts(
        recipe.title,
        {
            "subject": phrase,
            "base": recipe.backbone,
            "device": plan.device,
            "learns": f"{plan.learned:,} numbers, the scene",
            "plan": f"{plan.steps} steps, {minutes(plan.seconds)}, {plan.memory_mb / 1000:.1f} GB memory",
            "writes": str(folder),
        }
        | _views(recipe, phrase),
    )


def _tell_stages(recipe: Recipe, phrase: str, folder: Path, stages: dict[str, tuple[int, float]]) -> None:
    told = {
        name: f"{count} {COUNTED.get(name[3:], 'steps')}, {minutes(seconds)}"
        for name, (count, seconds) in stages.items()
    }
    whole = minutes(sum(seconds for _, seconds in stages.values()))
    facts = {"subject": phrase, "base": recipe.backbone} | told | {"whole": whole, "writes": str(folder)}
    console.facts(recipe.title, facts | _views(recipe, phrase))


def _views(recipe: Recipe, phrase: str) -> dict[str, str]:
    """What is asked of each side of the scene."""
    from modalities.three_d.components.view_prompts import ViewPrompts

    words = next((part for part in recipe.components if isinstance(part, ViewPrompts)), ViewPrompts())
    return words.told(recipe.data.prompts[0].format(phrase))


def _tell(folder: Path, handed: Handed, seconds: float, more: dict[str, Any]) -> None:
    files = {
        "turntable": handed.turntable,
        "film": handed.film,
        "contact_sheet": handed.sheet,
        "glb": handed.glb,
        "obj": handed.obj,
        "points": handed.points,
        "page": handed.page,
    }
    console.result(
        {"run": str(folder), "seconds": seconds, **{name: str(path) for name, path in files.items()}} | more,
        [f"run            {folder}  ({seconds:.0f} s)"]
        + [f"{name.replace('_', ' '):<13}  {path}" for name, path in files.items()],
    )


def _photos_of(run: Path, photos: Path | None) -> tuple[list[Image], Path | None]:
    """The photos to compare with, and the true shape beside them if there is one."""
    from modalities.core.artifact import Artifact
    from modalities.core.concept import Concept
    from modalities.three_d.dreambooth3d import STAGES

    if photos is None:
        first = Artifact(run / STAGES[0])
        known = [photo for one in first.photos() for photo in one] if first.exists() else []
    else:
        known = list(Concept.from_folder(photos, noun="subject").photos)
    truth = known[0].path.parent.parent / "subject.npz" if known else None
    return [photo.open() for photo in known], truth if truth and truth.is_file() else None
