"""How unlike pictures of one prompt are: the DIV of DreamBooth, on features instead of LPIPS.

Ruiz et al., CVPR 2023, section 4.3. https://arxiv.org/abs/2208.12242
"""

from __future__ import annotations

import math

import torch

from modalities.core.evidence import Evidence
from modalities.core.metric import Absent, Metric, Scores


class Diversity(Metric):
    """For each picture 1 minus its mean cosine with the others of its prompt; 0 when all are the same."""

    title = "diversity"
    axis = "quality"
    encoders = ("clip",)

    def score(self, evidence: Evidence) -> Scores:
        features, groups = evidence.features("clip"), evidence.groups
        values = [math.nan] * len(groups)
        for group in dict.fromkeys(groups):
            rows = [row for row, own in enumerate(groups) if own == group and features[row].isfinite().all()]
            if len(rows) < 2:
                continue
            cosines = features[rows] @ features[rows].T
            others = (cosines.sum(1) - cosines.diagonal()) / (len(rows) - 1)
            for row, value in zip(rows, (1 - others).tolist(), strict=True):
                values[row] = value
        if not torch.tensor(values).isfinite().any():
            raise Absent("needs at least two pictures of one prompt.")
        return Scores.of_pictures(values, groups)
