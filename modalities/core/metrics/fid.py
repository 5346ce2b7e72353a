"""Fréchet distance of two sets of pictures (Heusel et al., NeurIPS 2017), by torchmetrics.

https://arxiv.org/abs/1706.08500. On the features of the subject encoder; with DINOv2 there it is the FD-DINOv2 that
follows human judgement better than Inception (Stein et al., NeurIPS 2023, https://arxiv.org/abs/2306.04675).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modalities.core.evidence import Evidence
from modalities.core.metric import Absent, Metric, Scores

RESAMPLES = 20


class Given(nn.Module):
    """Stands for the feature extractor of torchmetrics where features are known already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


class Fid(Metric):
    """Fréchet distance between the features of the pictures and of the photos; biased upwards for few of either."""

    title = "FID"
    axis = "quality"
    higher_is_better = False
    encoders = ("subject",)
    needs = ("references",)

    def score(self, evidence: Evidence) -> Scores:
        pictures, photos = both(evidence)
        generator = torch.Generator().manual_seed(0)
        again = [
            self._distance(pictures[torch.randint(len(pictures), (len(pictures),), generator=generator)], photos)
            for _ in range(RESAMPLES)
        ]
        width, few = pictures.shape[1], min(len(pictures), len(photos))
        remark = f"only {few} pictures or photos for {width} features: compare it with nothing" if few < width else ""
        failed = len(evidence.gallery.pictures) - len(pictures)
        return Scores.of_set(self._distance(pictures, photos), again, len(pictures), failed, remark)

    def _distance(self, pictures: Tensor, photos: Tensor) -> float:
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance
        except ImportError:
            raise Absent("needs torchmetrics: pip install 'pcs-cli[eval]'.") from None
        metric = FrechetInceptionDistance(feature=Given(pictures.shape[1])).set_dtype(torch.float64)
        metric.update(photos.double(), real=True)
        metric.update(pictures.double(), real=False)
        return float(metric.compute())


def both(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Features of the readable pictures and of the photos, two at least of each.

    Raises:
        Absent: there are fewer.
    """
    pictures, photos = evidence.features("subject"), evidence.references("subject")
    pictures = pictures[pictures.isfinite().all(1)]
    if min(len(pictures), len(photos)) < 2:
        raise Absent("needs at least two pictures and two photos.")
    return pictures, photos
