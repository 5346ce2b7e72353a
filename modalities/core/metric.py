"""What every metric of results has in common, and what a number without its spread would hide.

A metric is one class in one file of a `metrics` folder; the file's name is the metric's name everywhere.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from modalities.core.evidence import Evidence

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Scores:
    """What a metric found.

    Attributes:
        mean: over the pictures, or the one value of the whole set.
        low, high: ends of its 95 % confidence interval; NaN where it has none.
        n: pictures that count.
        failed: pictures that could not be measured, e.g. unreadable ones or ones without a face.
        values: one for each picture, NaN where it failed; empty for a metric of the whole set.
        remark: what the user should know, or nothing.
    """

    mean: float
    low: float
    high: float
    n: int
    failed: int = 0
    values: tuple[float, ...] = ()
    remark: str = ""

    @classmethod
    def of_pictures(cls, values: Sequence[float], groups: Sequence[str], remark: str = "") -> Scores:
        """Scores of single pictures. Pictures of one group, e.g. of one prompt, are resampled together.

        The interval is a percentile bootstrap over groups (Efron and Tibshirani 1993, chapter 13), over pictures
        where all are of one group.
        """
        array = np.array(values, np.float64)
        is_good = np.isfinite(array)
        good = array[is_good]
        if not len(good):
            return cls(math.nan, math.nan, math.nan, 0, len(array), tuple(array), remark)
        names = np.array(groups)[is_good]
        kinds = np.unique(names) if len(set(names.tolist())) > 1 else None
        low, high = _interval([good[names == kind] for kind in kinds] if kinds is not None else [*good[:, None]])
        return cls(fmean(good), low, high, len(good), int((~is_good).sum()), tuple(array.tolist()), remark)

    @classmethod
    def of_set(cls, value: float, resampled: Sequence[float], n: int, failed: int = 0, remark: str = "") -> Scores:
        """One value of a whole set, with the values of resampled sets for its interval."""
        finite = [one for one in resampled if math.isfinite(one)]
        low, high = (float(end) for end in np.quantile(finite, _TAILS)) if len(finite) > 1 else (math.nan, math.nan)
        return cls(value, low, high, n, failed, (), remark)


_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def _interval(groups: list[np.ndarray]) -> tuple[float, float]:
    """Percentile bootstrap of the mean of all values, whole groups drawn with replacement."""
    if len(groups) < 2:
        return math.nan, math.nan
    sums, counts = np.array([group.sum() for group in groups]), np.array([len(group) for group in groups])
    drawn = np.random.default_rng(0).integers(len(groups), size=(RESAMPLES, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, _TAILS)
    return float(low), float(high)


class Metric(ABC):
    """One way to judge pictures.

    Class attributes:
        title: what the field calls it.
        axis: what it is about: "subject", "text", "quality", "overfitting".
        higher_is_better: False for distances and warnings.
        encoders: which of "subject", "clip" and "thumbnails" it looks through.
        needs: what must be there besides pictures: "references", "prompts", "class pictures", "truth".
    """

    title: ClassVar[str]
    axis: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    encoders: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def score(self, evidence: Evidence) -> Scores:
        """Judge the pictures.

        Raises:
            Absent: something that it needs is not there; the other metrics still run.
        """

    def checkpoint(self, evidence: Evidence) -> str:
        """What it looks through."""
        return ", ".join(evidence.sources[name] for name in self.encoders) or "none"


class Absent(PcsError):
    """A metric cannot run for want of something; says what, and how to get it."""
