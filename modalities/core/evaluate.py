"""Judge generated pictures: every metric that can run, with its spread, and whether it passes the gates."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modalities.core import plugins
from modalities.core.bases import quiet
from modalities.core.errors import PcsError, did_you_mean
from modalities.core.evidence import Evidence
from modalities.core.metric import Absent, Metric, Scores

# What a user may call the two axes that are always shown together.
ALIASES = {"text": "clip_t", "subject": "dino_i"}
# Needs nothing beyond the two encoders.
USUAL = ("clip_t", "dino_i", "clip_i", "copy", "diversity", "drift", "identity", "context", "view")
AXES = ("clip_t", "dino_i")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One metric's scores and what it looked through."""

    metric: type[Metric]
    scores: Scores
    checkpoint: str

    def line(self) -> dict[str, Any]:
        """As JSON; NaN becomes null."""
        scores = self.scores
        numbers = {"mean": scores.mean, "low": scores.low, "high": scores.high}
        return {
            "title": self.metric.title,
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "n": scores.n,
            "failed": scores.failed,
            "higher_is_better": self.metric.higher_is_better,
            "checkpoint": self.checkpoint,
            "remark": scores.remark,
        }


@dataclass(frozen=True)
class Report:
    """What was found about one gallery.

    Attributes:
        title: what it is called beside others.
        results: by metric name, in the order that was asked for.
        absent: metrics that could not run, with the reason.
    """

    title: str
    evidence: Evidence
    results: dict[str, Result]
    absent: dict[str, str]

    def line(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "title": self.title,
            "pictures": len(self.evidence.gallery.pictures),
            "unreadable": [str(path) for path in self.evidence.unreadable],
            "metrics": {name: result.line() for name, result in self.results.items()},
            "not_run": self.absent,
        }


def known_metrics() -> list[str]:
    """Names of all metrics there are."""
    return list(plugins.names("metrics"))


def named(metrics: Sequence[str]) -> list[str]:
    """Names of metrics as files have them, from what a user calls them; the two axes always come first.

    Raises:
        PcsError: there is no such metric.
    """
    known = known_metrics()
    meant = [ALIASES.get(name, name) for name in metrics]
    for name in meant:
        if name not in known:
            raise PcsError(f'there is no metric "{name}"; {did_you_mean(name, [*known, *ALIASES])}')
    return list(dict.fromkeys([*AXES, *meant]))


def metric_named(name: str) -> type[Metric]:
    """The class of a metric, by the name of its file."""
    # Metrics bring networks along, whose libraries have remarks of their own.
    with quiet():
        return plugins.load("metrics", name, Metric)


def evaluate(evidence: Evidence, metrics: Sequence[str] = USUAL) -> Report:
    """Run metrics by their file names; what cannot run says why, and the others still do."""
    kinds = {name: metric_named(name) for name in metrics}
    absent: dict[str, str] = {}
    for encoder in dict.fromkeys(encoder for kind in kinds.values() for encoder in kind.encoders):
        try:
            evidence.encoder(encoder)
        except Absent as why:
            absent |= {name: str(why) for name, kind in kinds.items() if encoder in kind.encoders}
    can_run = {name: kind for name, kind in kinds.items() if name not in absent}
    evidence.look([encoder for kind in can_run.values() for encoder in kind.encoders])
    results: dict[str, Result] = {}
    for name, kind in can_run.items():
        metric = kind()  # pyright: ignore[reportAbstractUsage]
        try:
            results[name] = Result(kind, metric.score(evidence), metric.checkpoint(evidence))
        except Absent as why:
            absent[name] = str(why)
    return Report(evidence.gallery.title, evidence, results, absent)


@dataclass(frozen=True)
class Gate:
    """A demand like "clip_t>=0.28"."""

    metric: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.limit:g}"

    def passes(self, report: Report) -> bool:
        """Whether the mean of the metric is there and meets the demand; NaN never does."""
        result = report.results.get(self.metric)
        return result is not None and self.is_met(result.scores.mean)

    def is_met(self, value: float) -> bool:
        """Whether a value meets the demand; NaN never does."""
        return _COMPARE[self.sign](value, self.limit)


def gates(text: str, known: Sequence[str] | None = None) -> list[Gate]:
    """Read demands, separated by commas.

    known: names that may be demanded; None is those of all metrics of pictures.

    Raises:
        PcsError: one is not of the form METRIC>=NUMBER, or names no metric.
    """
    found: list[Gate] = []
    names = known_metrics() if known is None else known
    aliases = ALIASES if known is None else {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        match = re.fullmatch(r"(\w+)\s*(>=|<=|>|<)\s*([-+0-9.eE]+)", part)
        try:
            if match is None:
                raise ValueError
            limit = float(match[3])
        except ValueError:
            raise PcsError(f'--gate "{part}": write METRIC>=NUMBER, e.g. subject>=0.6,text>=0.28.') from None
        name = aliases.get(match[1], match[1])
        if name not in names:
            raise PcsError(f'--gate "{part}": {did_you_mean(match[1], [*names, *aliases])}')
        found.append(Gate(name, match[2], limit))
    if not found:
        raise PcsError(f'--gate "{text}": holds no demand; write e.g. subject>=0.6,text>=0.28.')
    return found
