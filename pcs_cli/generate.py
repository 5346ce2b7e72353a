"""`pcs generate`: the subject of a run in scenes that you describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pcs_cli.console import console
from pcs_cli.merge import together
from pcs_cli.options import Json, Offline, Out, Quiet, Set


def generate(
    run: Annotated[Path, typer.Argument(help="A run folder of `pcs train`.")],
    prompts: Annotated[
        list[str], typer.Argument(help='What to show; {} is the subject: "a {} in the snow"; several are {1}, {2}.')
    ],
    count: Annotated[int, typer.Option("-n", min=1, max=10_000, help="Images for each prompt.")] = 1,
    others: Annotated[
        list[str],
        typer.Option("--with", metavar="RUN[:WEIGHT]", help="Add the subject of another run, as {2}. May be repeated."),
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    out: Out = None,
    grid: Annotated[bool, typer.Option("--grid", help="Also write a contact sheet of all images.")] = False,
    changes: Set = [],  # noqa: B006
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate images of the subject of a run.

    Image number i of a seed always starts from the same noise, so its bytes depend on the prompt, the seed and i
    alone, not on how many are made.

    Example: pcs generate runs/rex "a {} in the snow" -n 4 --set sample.steps=50
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline)
    from modalities.core.artifact import Artifact
    from modalities.core.errors import PcsError
    from modalities.core.files import require_writable, slug

    artifact = Artifact.open(run)
    if artifact.recipe().modality == "video":
        raise PcsError(f"{run}: is a run of clips; use `pcs video generate`.")
    source = together([str(run), *others]) if others else artifact
    concept = source.concept()
    spelled = [(concept.prompt(prompt), concept.class_prompt(prompt)) for prompt in prompts]
    folder = out or run / "images"
    require_writable(folder, megabytes=5)

    from modalities.core import generate as images
    from modalities.core import media, recipe_text
    from modalities.core.report import contact_sheet

    written: list[Path] = []
    rows: list[tuple[str, list[media.Image.Image]]] = []
    with console.progress() as progress:
        studio = source.studio(machine.machine(), progress, recipe_text.changes_of(changes))
        progress.start("generating", len(spelled) * count)
        for prompt, said in spelled:
            rows.append((prompt, []))
            for index in range(count):
                picture = images.of_studio(studio, prompt, seed=seed, index=index)
                path = folder / f"{slug(prompt)}-seed{seed}-{index:03}.png"
                media.save_png(
                    picture, path, {"prompt": prompt, "class_prompt": said, "seed": str(seed), "index": str(index)}
                )
                written.append(path)
                rows[-1][1].append(picture)
                progress.advance()
    sheet = folder / f"sheet-seed{seed}.png"
    if grid:
        media.save_png(contact_sheet(rows), sheet)
    console.result(
        {"images": [str(path) for path in written], "sheet": str(sheet) if grid else None},
        [str(path) for path in [*written, *([sheet] if grid else [])]],
    )
