"""LPIPS between pictures of one prompt, the DIV of DreamBooth (Zhang et al., CVPR 2018), by the package `lpips`.

https://arxiv.org/abs/1801.03924
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from modalities.core import media
from modalities.core.evidence import Evidence
from modalities.core.metric import Absent, Metric, Scores


class Lpips(Metric):
    """For each picture its mean perceptual distance to the others of its prompt; 0 when all are the same."""

    title = "LPIPS"
    axis = "quality"

    def checkpoint(self, evidence: Evidence) -> str:
        return "lpips, AlexNet"

    def score(self, evidence: Evidence) -> Scores:
        device = evidence.machine.device.torch
        distance = network(device)
        groups = evidence.groups
        sums, counts = [0.0] * len(groups), [0] * len(groups)
        for group in dict.fromkeys(groups):
            rows = [row for row, own in enumerate(groups) if own == group]
            # One prompt's pictures at a time: memory does not grow with their number.
            shown = {row: image for row in rows if (image := evidence.open(row)) is not None}
            for one, other in itertools.combinations(shown, 2):
                pair = [media.to_pixels(shown[row])[None].to(device) * 2 - 1 for row in (one, other)]
                with torch.no_grad():
                    value = float(distance(*pair))
                for row in (one, other):
                    sums[row], counts[row] = sums[row] + value, counts[row] + 1
        if not any(counts):
            raise Absent("needs at least two pictures of one prompt.")
        values = [total / count if count else math.nan for total, count in zip(sums, counts, strict=True)]
        return Scores.of_pictures(values, groups)


def network(device: Any) -> Any:
    """The network on a torch device: two batches of pictures in [-1, 1] in, their distances out.

    Raises:
        Absent: its package or its weights are not to be had.
    """
    try:
        import lpips
    except ImportError:
        raise Absent("needs lpips and its torchvision: pip install lpips.") from None
    try:
        found = lpips.LPIPS(net="alex", verbose=False)  # pyright: ignore[reportAttributeAccessIssue]
    except OSError as error:
        raise Absent(f"needs the AlexNet of torchvision, which cannot be had ({error}).") from None
    return found.to(device).eval()
