"""`pcs world`: pictures of the mini world with exact truth, for trying, testing and measuring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pcs_cli.console import console
from pcs_cli.options import Json, Quiet

app = typer.Typer(help="Render scenes of the embedded base's world, with exact truth.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder to write; it gets photos/, masks/, depth/ and truth.jsonl.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")]
Size = Annotated[int, typer.Option(min=16, max=1024, help="Side of the pictures in pixels, a multiple of 8.")]
HeldOut = Annotated[
    bool,
    typer.Option(
        "--held-out/--any", help="Only compositions of class, colours and pattern that mini never trained on."
    ),
]
Varied = Annotated[
    bool,
    typer.Option("--varied", help="With styles, accessories, wet or glossy, or a second subject beside the first."),
]
Class = Annotated[str | None, typer.Option("--class", help="What it is, e.g. mug; any, if not given.")]


@app.command()
def subject(
    folder: Folder,
    class_name: Class = None,
    count: Annotated[int, typer.Option("-n", min=1, max=10_000, help="Photos of it.")] = 5,
    seed: Seed = 0,
    size: Size = 128,
    held_out: HeldOut = True,
    solid: Annotated[
        bool,
        typer.Option(
            "--solid", help="Also write subject.ply, a coloured mesh, subject.npz, its SDF, and views/, other pictures."
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Render photos of one individual in different places, seen from all around.

    Example: pcs world subject photos/my-mug --class mug --seed 3
    """
    console.setup(json=json, quiet=quiet)
    _require(class_name, size)
    from modalities.mini import truth
    from modalities.mini.world import Subject

    one = Subject.random(seed, class_name, held_out=held_out)
    with console.progress() as progress:
        photos = truth.write_scenes(truth.portraits(one, seed, count), folder, size, progress)
    result, lines = (
        {"photos": str(photos), "truth": str(folder / "truth.jsonl"), "noun": one.class_name},
        [f"photos  {photos}"],
    )
    if solid:
        from modalities.mini import solid as solids
        from modalities.three_d.evaluate import true_views

        solids.write_ply(solids.mesh_of(one), folder / "subject.ply")
        solids.write_field(solids.field_of(one), folder / "subject.npz")
        true_views(one).write(folder / "views")
        truths = {"mesh": "subject.ply", "field": "subject.npz", "views": "views"}
        result |= {name: str(folder / path) for name, path in truths.items()}
        lines.append(f"mesh    {folder / 'subject.ply'}")
    console.result(
        result,
        [*lines, f"next    pcs train image {photos} --noun {one.class_name}"],
    )


@app.command()
def clip(
    folder: Annotated[Path, typer.Argument(help="Folder to write; it gets clips/, frames/, masks/ and truth.jsonl.")],
    motion: Annotated[str | None, typer.Option(help="How it moves, e.g. jump; any way, if not given.")] = None,
    class_name: Class = None,
    count: Annotated[int, typer.Option("-n", min=1, max=10_000, help="Clips.")] = 1,
    seed: Seed = 0,
    size: Size = 128,
    held_out: HeldOut = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Render clips of one individual that moves along an exact path, eight frames each.

    Example: pcs world clip clips/jump --motion jump --class duck
    """
    console.setup(json=json, quiet=quiet)
    _require(class_name, size)
    from modalities.core.errors import PcsError, did_you_mean
    from modalities.mini import truth
    from modalities.mini.motion import MOTIONS
    from modalities.mini.world import Subject

    if motion is not None and motion not in MOTIONS:
        raise PcsError(f'the mini world has no motion "{motion}"; {did_you_mean(motion, MOTIONS)}')
    one = Subject.random(seed, class_name, held_out=held_out)
    with console.progress() as progress:
        clips = truth.write_clips(truth.reel(seed, count, motion, one), folder, size, progress)
    console.result(
        {"clips": str(clips), "truth": str(folder / "truth.jsonl"), "noun": one.class_name, "count": count},
        [f"clips   {clips}", f"truth   {folder / 'truth.jsonl'}"],
    )


@app.command()
def render(
    folder: Folder,
    class_name: Class = None,
    count: Annotated[int, typer.Option("-n", min=1, max=1_000_000, help="Pictures.")] = 20,
    seed: Seed = 0,
    size: Size = 64,
    held_out: HeldOut = False,
    varied: Varied = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Render scenes of different individuals.

    Example: pcs world render scenes -n 100 --seed 1
    """
    console.setup(json=json, quiet=quiet)
    _require(class_name, size)
    from modalities.mini import truth

    scenes = truth.gallery(seed, count, class_name, held_out=held_out, varied=varied)
    with console.progress() as progress:
        photos = truth.write_scenes(scenes, folder, size, progress)
    console.result(
        {"photos": str(photos), "truth": str(folder / "truth.jsonl"), "count": count},
        [f"photos  {photos}", f"truth   {folder / 'truth.jsonl'}"],
    )


@app.command()
def sheet(
    file: Annotated[Path, typer.Argument(help="PNG to write.")],
    class_name: Class = None,
    count: Annotated[int, typer.Option("-n", min=1, max=400, help="Pictures.")] = 40,
    seed: Seed = 0,
    size: Size = 96,
    held_out: HeldOut = False,
    varied: Varied = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Render scenes into one picture, to see what the world looks like.

    Example: pcs world sheet mugs.png --class mug
    """
    console.setup(json=json, quiet=quiet)
    _require(class_name, size)
    from PIL import Image

    from modalities.core import media
    from modalities.core.report import grid
    from modalities.mini import truth
    from modalities.mini.world import render as draw

    scenes = truth.gallery(seed, count, class_name, held_out=held_out, varied=varied)
    with console.progress() as progress:
        progress.start("rendering", count)
        pictures: list[Image.Image] = []
        for scene in scenes:
            pictures.append(Image.fromarray(draw(scene, size).image))
            progress.advance()
    media.save_png(grid(pictures, columns=min(count, 10)), file)
    console.result({"sheet": str(file)}, [str(file)])


def _require(class_name: str | None, size: int) -> None:
    from modalities.core.errors import PcsError, did_you_mean
    from modalities.mini.world import CLASS_NAMES

    if class_name is not None and class_name not in CLASS_NAMES:
        raise PcsError(f'the mini world has no class "{class_name}"; {did_you_mean(class_name, CLASS_NAMES)}')
    if size % 8:
        raise PcsError(f"--size {size}: give a multiple of 8.")
