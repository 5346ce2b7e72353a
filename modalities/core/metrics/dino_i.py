"""Subject fidelity: cosine of image features, as DINO-I and CLIP-I (Ruiz et al., CVPR 2023, section 4.2).

https://arxiv.org/abs/2208.12242
"""

from __future__ import annotations

from PIL import Image
from torch import Tensor

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
        return among(self._references) if len(self._references) > 1 else 1.0


class DinoI(Metric):
    """Mean cosine of each picture with the photos, as the image encoder sees them."""

    title = "DINO-I"
    axis = "subject"
    encoders = ("subject",)
    needs = ("references",)

    def score(self, evidence: Evidence) -> Scores:
        return likeness(evidence, "subject")


def likeness(evidence: Evidence, encoder: str) -> Scores:
    """Mean cosine of each picture with the photos; the remark says how alike these are, the most a likeness can be."""
    photos = evidence.references(encoder)
    cosines = evidence.features(encoder) @ photos.T
    remark = f"the photos among themselves: {among(photos):.3f}" if len(photos) > 1 else ""
    return Scores.of_pictures(cosines.mean(1).tolist(), evidence.groups, remark)


def among(features: Tensor) -> float:
    """Mean cosine of different rows of unit vectors (R, width), R > 1."""
    cosines = features @ features.T
    count = len(features)
    return float((cosines.sum() - cosines.trace()) / (count * (count - 1)))
