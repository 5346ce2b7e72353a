"""Subject fidelity: cosine of image features, as DINO-I and CLIP-I (Ruiz et al., CVPR 2023, section 4.2).

https://arxiv.org/abs/2208.12242
"""

from __future__ import annotations

from PIL import Image

from modalities.core.encoders import ImageEncoder


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
