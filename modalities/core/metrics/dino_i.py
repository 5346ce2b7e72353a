"""Subject fidelity: cosine of image features, as DINO-I and CLIP-I (Ruiz et al., CVPR 2023, section 4.2).

https://arxiv.org/abs/2208.12242
"""

from __future__ import annotations

import math

from PIL import Image

from modalities.core.encoders import ImageEncoder
from modalities.core.evidence import Evidence
from modalities.core.metric import Metric, Scores


class SubjectSimilarity:
    """Mean cosine in [-1, 1] between a generated picture and every reference photo."""

    def __init__(self, encoder: ImageEncoder, references: list[Image.Image]) -> None:
        self._encoder = encoder
        self._references = encoder(references)

    def score(self, images: list[Image.Image]) -> list[float]:
        """Return one similarity for each picture."""
        return (self._encoder(images) @ self._references.T).mean(1).tolist()

    def ceiling(self) -> float:
        """Mean similarity of the reference photos to one another: what a perfect likeness scores."""
        count = len(self._references)
        if count < 2:
            return 1.0
        cosines = self._references @ self._references.T
        return float((cosines.sum() - cosines.trace()) / (count * (count - 1)))


class DinoI(Metric):
    """Mean cosine of each picture with the photos, as the image encoder sees them."""

    title = "DINO-I"
    axis = "subject"
    encoders = ("subject",)
    needs = ("references",)

    def score(self, evidence: Evidence) -> Scores:
        cosines = evidence.features("subject") @ evidence.references("subject").T
        return Scores.of_pictures(cosines.mean(1).tolist(), evidence.groups, ceiling_of(evidence, "subject"))


def ceiling_of(evidence: Evidence, encoder: str) -> str:
    """How alike the photos are to one another, which is as high as a likeness sensibly gets, in words."""
    photos = evidence.references(encoder)
    count = len(photos)
    if count < 2:
        return ""
    cosines = photos @ photos.T
    among = float((cosines.sum() - cosines.trace()) / (count * (count - 1)))
    return f"the photos among themselves: {among:.3f}" if math.isfinite(among) else ""
