"""Kernel distance of two sets of pictures, unbiased (Binkowski et al., ICLR 2018), by torchmetrics.

https://arxiv.org/abs/1801.01401. On the features of the subject encoder, like `fid`.
"""

from __future__ import annotations

import torch

from modalities.core.evidence import Evidence
from modalities.core.metric import Absent, Metric, Scores
from modalities.core.metrics.fid import Given, both

SUBSETS = 50
LARGEST = 1000


class Kid(Metric):
    """Squared maximum mean discrepancy with a cubic kernel, mean over subsets; may fall below 0."""

    title = "KID"
    axis = "quality"
    higher_is_better = False
    encoders = ("subject",)
    needs = ("references",)

    def score(self, evidence: Evidence) -> Scores:
        try:
            from torchmetrics.image.kid import KernelInceptionDistance
        except ImportError:
            raise Absent("needs torchmetrics: pip install 'pcs-cli[eval]'.") from None
        pictures, photos = both(evidence)
        size = min(len(pictures), len(photos), LARGEST)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            metric = KernelInceptionDistance(feature=Given(pictures.shape[1]), subsets=SUBSETS, subset_size=size)
            metric.update(photos.double(), real=True)
            metric.update(pictures.double(), real=False)
            mean, spread = metric.compute()
        value, half = float(mean), 1.96 * float(spread) / SUBSETS**0.5
        failed = len(evidence.gallery.pictures) - len(pictures)
        return Scores(value, value - half, value + half, len(pictures), failed)
