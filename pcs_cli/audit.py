"""`pcs audit`: really train on clean, noisy and protected photos, and say what the protection is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pcs_cli.console import console
from pcs_cli.options import Json, Offline, Out, Quiet, from_anywhere, resumable

LORA = "image/dreambooth_lora"


def audit(
    clean: Annotated[Path, typer.Argument(help="Folder of the photos as they were.")],
    protected: Annotated[Path, typer.Argument(help="Folder that `pcs protect` wrote from it.")],
    noun: Annotated[
        str | None, typer.Option("--noun", help="What the photos show, in a word; as `pcs protect` was told.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", help=f"Training recipe of a copier, not {LORA}; may be repeated.")
    ] = None,
    base: Annotated[list[str], typer.Option("--base", help="Base that is trained; may be repeated.")] = [],  # noqa: B006
    purify: Annotated[
        str,
        typer.Option(
            "--purify",
            help="Also after these, by commas: jpeg90, jpeg75, jpeg50, resize, blur, noise, crop, vae; or all.",
        ),
    ] = "none",
    mix: Annotated[int, typer.Option("--mix", min=0, help="So many of the photos are left unprotected.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=50, help="Trainings of each kind.")] = 2,
    out: Out = None,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Personalize on clean photos, on random noise of the same size, and on protected photos, and compare.

    Same recipe, same seeds, same prompts and noise: what differs is what the photos' protection does. Pictures are
    compared with the clean photos. Stopped audits go on where they were when the same command is given again.

    "Weakened" means that the likeness fell below both clean and noise, beyond the 95 % interval, in this test; it says
    nothing of methods and models that are not in the table, and a protection can be undone.

    Example: pcs audit photos/me photos/me-safe --purify jpeg75,resize
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline)
    from modalities.core.concept import checked_noun
    from modalities.core.files import require_writable
    from protect import audit as work
    from protect import folder
    from protect.audit_page import write_page
    from protect.purifiers import NAMES

    steps = {"none": (), "all": NAMES}.get(purify) or tuple(
        name.strip() for name in purify.split(",") if name.strip() not in ("", "none")
    )
    question = work.Question(
        clean,
        protected,
        checked_noun(noun or (folder.read_record(protected) or {}).get("noun", "person")),
        tuple(attack or [LORA]),
        tuple(map(from_anywhere, base)) or (None,),
        steps,
        mix,
        seeds,
    )
    place = out or machine.runs / f"audit-{protected.resolve().name}"
    require_writable(place, megabytes=100)
    with console.progress() as progress, resumable(place, flag=""):
        found = work.audit(question, place, machine.machine(), progress=progress)
    write_page(found, question, place)
    _tell(found, place)


def _tell(found: dict[str, Any], out: Path) -> None:
    """The table for people, or the object for scripts."""
    from protect.audit_page import change_rows, rows, title

    if not console.json:
        console.result_table(*change_rows(found), {})
        for result in found["results"]:
            console.result_text(f"{title(result)}: {result['verdict']}")
            head, table = rows(result)
            console.result_table(head, table, {})
    lines = [
        f"verdict    {found['verdict']}",
        *([] if found["lpips"] == "measured" else [f"LPIPS      not measured: {found['lpips']}"]),
        f"not tested {'; '.join(found['not_tested'])}",
        f"page       {out / 'audit.html'}",
    ]
    console.result(found | {"out": str(out)}, lines)
