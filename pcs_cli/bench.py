"""`pcs bench`: recipes on the field's benchmarks, and tables that say what was run."""

from __future__ import annotations

import csv
import io
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.console import console
from pcs_cli.options import Base, Json, Offline, Quiet, recipe_for

if TYPE_CHECKING:
    from modalities.core.bench import Row

app = typer.Typer(help="Run recipes on benchmarks of subjects and prompts.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="A folder of `pcs bench init`.")]
Recipes = Annotated[list[str], typer.Option("--recipe", "-r", help="A name of `pcs recipes list`; may be repeated.")]
Images = Annotated[int, typer.Option("-n", min=1, max=1000, help="Pictures of each prompt.")]
DEFAULT = ["image/dreambooth_lora"]


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="dreambench, custom101, pcs-unified, or mini, which is rendered here.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    root: Annotated[Path | None, typer.Option(help="Where the benchmark was unpacked; not for mini.")] = None,
    subjects: Annotated[int, typer.Option(min=1, max=1000, help="Subjects of mini.")] = 15,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a benchmark's folder and write its manifest: subjects, classes, prompts, hashes.

    Example: pcs bench init dreambench benches/dreambench --root downloads/dreambooth/dataset
    """
    console.setup(json=json, quiet=quiet)
    from modalities.core import bench, dataset
    from modalities.core.errors import PcsError, did_you_mean
    from modalities.core.files import require_writable

    known = [*dataset.LAYOUTS, "mini"]
    if name not in known:
        raise PcsError(f'there is no benchmark "{name}"; {did_you_mean(name, known)}')
    if (folder / bench.MANIFEST).exists():
        raise PcsError(f"{folder}: holds a benchmark already; choose another folder.")
    if name == "mini":
        from modalities.mini.benchmark import rendered

        require_writable(folder, megabytes=20)
        with console.progress() as progress:
            made = rendered(folder / "subjects", subjects, progress)
    else:
        if root is None or not root.is_dir():
            raise PcsError(f"--root {root}: give the folder that {name} unpacks to.")
        made = dataset.LAYOUTS[name](root)
    made.save(folder / bench.MANIFEST)
    for remark in made.remarks:
        console.warn(remark)
    prompts = sum(len(one.prompts) for one in made.subjects)
    console.result(
        {"benchmark": name, "subjects": len(made.subjects), "prompts": prompts, "remarks": list(made.remarks)},
        [f"{name}: {len(made.subjects)} subjects, {prompts} prompts", f"next    pcs bench plan {folder}"],
    )


@app.command()
def plan(
    folder: Folder,
    recipe: Recipes = DEFAULT,
    base: Base = None,
    images: Images = 4,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a run would take: jobs, pictures, hours; each recipe is tried for two steps."""
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline).machine()
    from modalities.core.bench import Bench

    bench = Bench.open(folder, images)
    with console.progress() as progress:
        progress.start("trying", len(recipe))
        plans = bench.plans(recipe, machine, base)
    rows: list[list[str]] = []
    value: dict[str, Any] = {}
    for name, made in plans.items():
        jobs = bench.jobs([name])
        pictures = sum(len(job.subject.prompts) for job in jobs) * images
        done = sum(job.scores.is_file() for job in jobs)
        hours = (made.seconds * len(jobs) + made.seconds_per_image * pictures) / 3600
        rows.append([name, str(len(jobs)), str(done), str(pictures), f"{hours:.1f}"])
        value[name] = {"jobs": len(jobs), "done": done, "pictures": pictures, "hours": hours}
    console.result_table(["recipe", "jobs", "done", "pictures", "hours"], rows, value)


@app.command()
def run(
    folder: Folder,
    recipe: Recipes = DEFAULT,
    base: Base = None,
    images: Images = 4,
    metrics: Annotated[str, typer.Option(help="Metrics, separated by commas; see `pcs eval`.")] = "clip_i,copy,drift",
    shard: Annotated[
        str, typer.Option(help="I/N: only every N-th job, from the I-th on; for several machines.")
    ] = "0/1",
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, draw and judge every recipe on every subject. Stop it at any time; the same command goes on.

    Example: pcs bench run benches/mini -r image/dreambooth_lora -r image/textual_inversion
    """
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline).machine()
    from modalities.core.bench import Bench, parse_shard
    from modalities.core.errors import Interrupted
    from modalities.core.evaluate import named

    bench, asked = Bench.open(folder, images), named([one.strip() for one in metrics.split(",") if one.strip()])
    jobs = bench.jobs(recipe, parse_shard(shard))
    for name in recipe:
        recipe_for("image", name, [], base)
    with console.progress() as progress:
        for number, job in enumerate(jobs, 1):
            if not job.scores.is_file():
                progress.note(f"job {number} of {len(jobs)}: {job.recipe} on {job.subject.name}")
            try:
                bench.run(job, machine, base, asked, progress)
            except Interrupted as stopped:
                stopped.resume = " ".join(["pcs", *sys.argv[1:]])
                raise
    done = sum(job.scores.is_file() for job in jobs)
    names = " ".join(f"-r {name}" for name in recipe)
    console.result(
        {"jobs": len(jobs), "done": done}, [f"{done} jobs done", f"next    pcs bench table {folder} {names}"]
    )


@app.command()
def table(
    folder: Folder,
    recipe: Recipes = DEFAULT,
    compare: Annotated[str | None, typer.Option(help="survey-table1: beside what the survey printed.")] = None,
    form: Annotated[str, typer.Option("--format", help="text, md or csv.")] = "text",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the scores of what was run, text and subject together; what was not run says so."""
    console.setup(json=json, quiet=quiet)
    from modalities.core.bench import Bench, compared
    from modalities.core.bench import table as scored
    from modalities.core.errors import PcsError

    if form not in ("text", "md", "csv") or compare not in (None, "survey-table1"):
        raise PcsError("--format is text, md or csv, and --compare is survey-table1.")
    rows = scored(Bench.open(folder), recipe)
    if compare:
        head = ["type", "method", "base", "our base", "CLIP-T", "ours", "", "fidelity", "ours", ""]
        _show(head, compared(rows), form, {"rows": compared(rows)})
        return
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    lines = [
        [
            row.recipe,
            row.kind,
            f"{row.done}/{row.subjects}",
            *(_cell(row, name) for name in names),
            *(["not run"] * 2 if not row.done else [f"{row.seconds:.0f}", f"{row.megabytes:.2f}"]),
        ]
        for row in rows
    ]
    value = {
        f"{row.recipe} {row.kind}": {name: one.mean for name, one in row.scores.items()}
        | ({"seconds": row.seconds, "megabytes": row.megabytes} if row.done else {})
        for row in rows
    }
    _show(["recipe", "kind", "subjects", *names, "seconds", "MB"], lines, form, value)


def _cell(row: Row, name: str) -> str:
    scores = row.scores.get(name)
    if scores is None or not math.isfinite(scores.mean):
        return "not run"
    return (
        f"{scores.mean:.3f} ({scores.low:.3f} to {scores.high:.3f})"
        if math.isfinite(scores.low)
        else f"{scores.mean:.3f}"
    )


def _show(head: list[str], rows: list[list[str]], form: str, value: dict[str, Any]) -> None:
    if console.json or form == "text":
        console.result_table(head, rows, value)
    elif form == "md":
        for cells in (head, ["---"] * len(head), *rows):
            console.result_text(f"| {' | '.join(cells)} |")
    else:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([head, *rows])
        console.result_text(text.getvalue().rstrip("\n"))


@app.command()
def report(
    folder: Folder,
    recipe: Recipes = DEFAULT,
    subject: Annotated[
        str | None, typer.Option(help="One subject; the first that every recipe has done, if not given.")
    ] = None,
    images: Images = 4,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a page that shows the recipes side by side on one subject: same prompts, same noise."""
    console.setup(json=json, quiet=quiet)
    from pcs_cli import settings

    machine = settings.load(offline=offline).machine()
    from modalities.core.bench import Bench
    from modalities.core.errors import PcsError
    from modalities.core.evaluate import named
    from modalities.core.evaluation_page import write_page

    bench = Bench.open(folder, images)
    finished = [
        one.name
        for one in bench.dataset.subjects
        if all(job.scores.is_file() for job in bench.jobs(recipe) if job.subject == one)
    ]
    chosen = subject or next(iter(finished), None)
    if chosen not in finished:
        raise PcsError(f"{folder}: no subject {chosen or ''} is done by every recipe; run `pcs bench run` first.")
    with console.progress() as progress:
        jobs = [job for job in bench.jobs(recipe) if job.subject.name == chosen]
        reports = [bench.judged(job, machine, named(["clip_i", "copy", "diversity"]), progress) for job in jobs]
    page = folder / f"report-{chosen}.html"
    write_page(reports, page)
    console.result({"page": str(page)}, [f"page    {page}"])
