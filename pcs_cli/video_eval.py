"""`pcs video eval`: how well do the clips of a run do what they should?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli.console import console
from pcs_cli.options import Json, Offline, Out, Quiet

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.artifact import Artifact
    from modalities.video.evaluate import VideoReport

MISSED = 3


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder of `pcs video customize`.")],
    prompts: Annotated[
        list[str] | None, typer.Argument(help="What to draw, {} for the subject; as the run's previews if not given.")
    ] = None,
    count: Annotated[int, typer.Option("-n", min=1, max=1000, help="Clips for each prompt.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Noise of the clips.")] = 0,
    gate: Annotated[
        str | None,
        typer.Option(help='Demands, e.g. "motion_fidelity>=0.6,appearance_leak<=0.05"; exit code 3 if one is missed.'),
    ] = None,
    out: Out = None,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge the clips of a run, with the base model and the learned clip as anchors.

    Run and base draw from the same noise. Of a clip that `pcs world clip` wrote the true path is known, and the error
    against it is told as well.

    Example: pcs video eval runs/jump "a robot jumping" --gate "motion_fidelity>=0.5"
    """
    console.setup(json=json, quiet=quiet)
    from modalities.core import evaluate as pictures
    from modalities.core.artifact import Artifact
    from modalities.core.files import require_writable, write_json
    from modalities.video import mix
    from modalities.video.evaluate import SCORES
    from modalities.video.evaluate import evaluate as judge

    demands = pictures.gates(gate, list(SCORES)) if gate else []
    artifact = Artifact.open(run)
    mix.require_video(artifact)
    from pcs_cli import settings

    machine = settings.load(offline=offline).machine()
    folder = out or run / "evaluation"
    require_writable(folder, megabytes=5)
    with console.progress() as progress:
        report = judge(
            artifact,
            machine,
            prompts or [],
            count=count,
            seed=seed,
            folder=folder,
            path_error=_path_error(artifact),
            progress=progress,
        )
    missed = [
        str(one) for one in demands if one.metric not in report.run or not one.is_met(report.run[one.metric].mean)
    ]
    value = _values(report) | {"gates": [str(one) for one in demands], "missed": missed}
    write_json(folder / "evaluation.json", value)
    _tell_scores(report, value, [f"clips    {folder}", *(f"missed   {one}" for one in missed)])
    if missed:
        raise typer.Exit(MISSED)


def _path_error(run: Artifact) -> Callable[[Tensor], float] | None:
    """How far a clip strays from the true path of the one that was learned, where that is told."""
    from modalities.mini import paths

    clips = list(run.about()["clips"])
    path = paths.true_path(Path(clips[0])) if clips else None
    return None if path is None or len(path) != run.about()["frames"] else partial(paths.path_error, path=path)


def _values(report: VideoReport) -> dict[str, Any]:
    """As JSON; what could not be had is null."""
    from modalities.video.evaluate import mean_of
    from modalities.video.scores import FIDELITY

    def plain(value: float) -> float | None:
        return round(value, 6) if math.isfinite(value) else None

    scores = {
        name: {
            "mean": plain(report.run[name].mean),
            "low": plain(report.run[name].low),
            "high": plain(report.run[name].high),
            "n": report.run[name].n,
            "base": plain(mean_of(report.base, name)),
            "reference": plain(report.reference.get(name, math.nan)),
        }
        for name in report.names()
    }
    return {"scores": scores, "fidelity": FIDELITY, "clips": [str(path) for path in report.clips]}


def _tell_scores(report: VideoReport, value: dict[str, Any], lines: list[str]) -> None:
    def shown(number: float | None) -> str:
        return "-" if number is None else f"{number:.3f}"

    rows: list[list[str]] = []
    for name, one in value["scores"].items():
        span = f"{shown(one['low'])} to {shown(one['high'])}" if one["low"] is not None else "-"
        rows.append([name, shown(one["mean"]), span, str(one["n"]), shown(one["base"]), shown(one["reference"])])
    if not console.json:
        console.result_table(["score", "run", "95 %", "n", "base", "the clip"], rows, {})
    console.result(value, lines)
