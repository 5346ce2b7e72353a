"""`pcs eval`: how good are these pictures of the subject?"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pcs_cli.console import console
from pcs_cli.options import Json, Offline, Out, Quiet

if TYPE_CHECKING:
    from modalities.core.evaluate import Gate, Report
    from modalities.core.evidence import Evidence
    from modalities.core.machine import Machine
    from modalities.core.progress import Progress

MISSED = 3
# Letters of a checkpoint's name that leave a table 80 columns wide.
WIDE = 21


def evaluate(
    subjects: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN|DIR...", help="Run folders, or folders of pictures.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Photos of the subject; of a run its own photos, if they are still there.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="For runs a text file of prompts with {}; for folders a .csv or .jsonl that lists file and prompt."
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, separated by commas; `pcs eval --metrics help` lists them.")
    ] = None,
    count: Annotated[int, typer.Option("-n", min=1, max=1000, help="Pictures that a run draws of each prompt.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Noise of the pictures that runs draw.")] = 0,
    gate: Annotated[
        str | None, typer.Option(help='Demands, e.g. "subject>=0.6,text>=0.28"; exit code 3 if one is missed.')
    ] = None,
    out: Out = None,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge runs or folders of pictures: likeness, prompt fidelity, copying, drift, each with its spread.

    Runs draw their pictures first, from the same noise for every run; pictures that are there are not drawn again.
    Writes a page with all pictures, the worst cases, and the plane of subject against text.

    Example: pcs eval runs/rex --gate "subject>=0.6"
    """
    console.setup(json=json, quiet=quiet)
    from modalities.core.errors import PcsError
    from modalities.core.evaluate import USUAL, evaluate, gates, named

    if metrics == "help":
        _list_metrics()
        return
    if not subjects:
        raise PcsError("give one or more run folders, or folders of pictures, to judge.")
    asked = named([name.strip() for name in metrics.split(",") if name.strip()] if metrics else USUAL)
    demands = gates(gate) if gate else []
    asked = list(dict.fromkeys([*asked, *(demand.metric for demand in demands)]))
    from pcs_cli import settings

    machine = settings.load(offline=offline).machine()
    from modalities.core.evaluation_page import write_page
    from modalities.core.files import require_writable, write_json

    folder = out or (subjects[0] / "evaluation")
    require_writable(folder, megabytes=20)
    reports: list[Report] = []
    places: list[Path] = []
    with console.progress() as progress:
        for subject in subjects:
            evidence = _evidence(subject, against, prompts, count, seed, machine, progress)
            reports += [evaluate(one, asked) for one in evidence]
            places += [subject] * len(evidence)
    reports = _told_apart(reports, places)
    page = folder / "evaluation.html"
    write_page(reports, page)
    write_json(folder / "evaluation.json", {report.title: report.line() for report in reports})
    missed = [f"{report.title}: {demand}" for report in reports for demand in demands if not demand.passes(report)]
    _tell(reports, demands, missed, page)
    if missed:
        raise typer.Exit(MISSED)


def _told_apart(reports: list[Report], places: list[Path]) -> list[Report]:
    """Reports by the path of what they judge, where their own titles are not all different."""
    if len({report.title for report in reports}) == len(reports):
        return reports
    return [
        # Of several subjects each keeps its own behind the path.
        replace(report, title=str(place if places.count(place) == 1 else place.parent / report.title))
        for report, place in zip(reports, places, strict=True)
    ]


def _evidence(
    subject: Path,
    against: Path | None,
    prompts: Path | None,
    count: int,
    seed: int,
    machine: Machine,
    progress: Progress,
) -> list[Evidence]:
    """What is to be judged: each subject of a run after it drew its pictures, or a folder as it is."""
    from modalities.core.artifact import Artifact
    from modalities.core.errors import PcsError
    from modalities.core.evidence import Evidence, Gallery, photos_of
    from modalities.core.exam import Exam, read_templates

    run = Artifact(subject)
    photos = photos_of(against) if against else ()
    if not run.exists():
        gallery = Gallery.of_folder(subject, prompts)
        for remark in gallery.remarks:
            progress.warn(remark)
        return [Evidence(gallery, machine, photos, progress=progress)]
    run = Artifact.open(subject)
    kind = run.recipe().modality
    if kind != "image":
        what, verb = {"video": ("clips", "pcs video eval"), "three_d": ("a scene", "pcs 3d eval")}[kind]
        raise PcsError(f"{subject}: is a run of {what}; use `{verb}`.")
    templates = read_templates(prompts) if prompts else tuple(run.recipe().validation.prompts)
    history = [line for line in run.metrics() if "balance" in line]
    own = run.photos()
    if against and len(own) > 1:
        raise PcsError(f"--against: {subject} knows {len(own)} subjects; each is held against its own photos.")
    found: list[Evidence] = []
    for number, some in enumerate(own, start=1):
        exam = Exam(templates, count, seed, number)
        drawn = exam.sit(run, machine, progress)
        classes = exam.class_pictures(run, machine)
        found.append(Evidence(drawn, machine, photos or some, classes, history, progress))
    return found


def _tell(reports: list[Report], demands: list[Gate], missed: list[str], page: Path) -> None:
    """The table for people, or the object for scripts."""
    if not console.json:
        for report in reports:
            _table(report)
            for path in report.evidence.unreadable:
                console.warn(f"{path}: is not a readable picture; it is counted as failed.")
    value = {
        "reports": [report.line() for report in reports],
        "gates": [str(demand) for demand in demands],
        "missed": missed,
        "page": str(page),
    }
    lines = [f"page     {page}", *(f"missed   {one}" for one in missed)]
    console.result(value, lines)


def _table(report: Report) -> None:
    console.result_text(f"{report.title}: {len(report.evidence.gallery.pictures)} pictures")
    head = ["metric", "mean", "95 %", "n", "better", "checkpoint"]
    rows: list[list[str]] = []
    for result in report.results.values():
        scores = result.scores
        span = f"{scores.low:.3f} to {scores.high:.3f}" if math.isfinite(scores.low) else "-"
        better = "higher" if result.metric.higher_is_better else "lower"
        counted = f"{scores.n}/{scores.n + scores.failed}"
        where = result.checkpoint if len(result.checkpoint) <= WIDE else f"…{result.checkpoint[1 - WIDE :]}"
        rows.append([result.metric.title, f"{scores.mean:.3f}", span, counted, better, where])
    console.result_table(head, rows, {})
    for result in report.results.values():
        if result.scores.remark:
            console.say(f"{result.metric.title}: {result.scores.remark}")
    for name, why in report.absent.items():
        console.say(f"not run: {name} {why}")


def _list_metrics() -> None:
    """Every metric, what the field calls it, and what it needs."""
    from modalities.core.evaluate import ALIASES, USUAL, known_metrics, metric_named

    kinds = {name: metric_named(name) for name in known_metrics()}
    alias = {name: short for short, name in ALIASES.items()}
    rows = [
        [name, kind.title, kind.axis, "yes" if name in USUAL else "", ", ".join(kind.needs), alias.get(name, "")]
        for name, kind in kinds.items()
    ]
    console.result_table(
        ["metric", "title", "axis", "usual", "needs", "also called"],
        rows,
        {row[0]: {"title": row[1], "axis": row[2], "needs": row[4]} for row in rows},
    )
