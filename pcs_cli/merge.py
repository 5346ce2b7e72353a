"""`pcs merge`: the subjects of several runs in one."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pcs_cli.console import console
from pcs_cli.options import Json, Offline, Out, Quiet, weighted

if TYPE_CHECKING:
    from modalities.core.merge import Likeness, Together


class Method(StrEnum):
    """As `modalities.core.merge` takes them."""

    fuse = "fuse"
    add = "add"


def merge(
    runs: Annotated[list[str], typer.Argument(metavar="RUN[:WEIGHT]...", help="Finished runs of one recipe and base.")],
    method: Annotated[
        Method, typer.Option(help="fuse keeps each run's own pictures; add sums the weights, as other tools do.")
    ] = Method.fuse,
    out: Out = None,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put the subjects of several runs into one run, where prompts name them {1}, {2}, ….

    Shows how like each subject is to its own photos and to the others', drawn by its own run and by all together.

    Example: pcs merge runs/rex runs/mug -o runs/rex-mug
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline)
    from modalities.core import media
    from modalities.core.artifact import Artifact
    from modalities.core.errors import PcsError
    from modalities.core.files import require_writable
    from modalities.core.merge import compare
    from modalities.core.report import contact_sheet

    if len(runs) < 2:
        raise PcsError("give two or more finished runs to merge.")
    joined = together(runs)
    folder = out or machine.runs / "-".join(one.run.folder.resolve().name for one in joined.shares)
    if Artifact(folder).exists():
        raise PcsError(f"{folder}: already holds a run; choose another --out.")
    require_writable(folder, megabytes=20)
    place = machine.machine()
    with console.progress() as progress:
        merged = joined.merged(place, progress, method=method.value)
        studio = merged.studio(place)
        photos = [some for one in joined.shares for some in one.run.photos()]
        seen = compare(joined.shares, studio, photos, place, progress) if all(photos) else None
        if seen is None:
            progress.warn("not every subject's photos are where they were, so likeness is not measured.")
        facts = {"merged": [str(one.run.folder.resolve()) for one in joined.shares], "method": method.value}
        facts |= {"alone": seen.alone, "together": seen.merged} if seen else {}
        run = merged.save(folder, place, facts)
    if seen:
        media.save_png(contact_sheet(seen.sheet), run.contact_sheet)
    if seen and not console.json:
        _table([one["phrase"] for one in merged.subjects], seen)
    sheet = [f"contact sheet  {run.contact_sheet}"] if seen else []
    console.result(
        {"run": str(run.folder), "subjects": [one["phrase"] for one in merged.subjects], **facts},
        [
            f"run            {run.folder}",
            *sheet,
            f'next           pcs generate {run.folder} "a {{1}} beside a {{2}}" -n 4',
        ],
    )


def together(texts: list[str]) -> Together:
    """Read RUN or RUN:WEIGHT, each.

    Raises:
        PcsError: there is no such run, or they do not fit together.
    """
    from modalities.core.artifact import Artifact
    from modalities.core.merge import Share, Together

    shares: list[Share] = []
    for text in texts:
        path, weight = weighted(text)
        shares.append(Share(Artifact.open(path), weight))
    return Together.of(shares)


def _table(phrases: list[str], seen: Likeness) -> None:
    """Rows are what was asked for, columns whose photos it is held against."""
    rows = [
        [phrase, *(f"{before:.3f} -> {after:.3f}" for before, after in zip(alone, merged, strict=True))]
        for phrase, alone, merged in zip(phrases, seen.alone, seen.merged, strict=True)
    ]
    console.result_table(["asked for", *(f"like {phrase}" for phrase in phrases)], rows, {})
