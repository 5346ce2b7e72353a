"""Prompt fidelity: CLIP-T, the cosine of picture and prompt (Hessel et al., EMNLP 2021, without its factor 2.5).

https://arxiv.org/abs/2104.08718
"""

from __future__ import annotations

from PIL import Image

from modalities.core.encoders import TextImageEncoder


class TextAlignment:
    """Cosine in [-1, 1] between a picture and its prompt, with the class word in the subject's place."""

    def __init__(self, encoder: TextImageEncoder) -> None:
        self._encoder = encoder

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """Return one alignment for each pair."""
        return (self._encoder(images) * self._encoder.text(prompts)).sum(1).tolist()

    def floor(self, images: list[Image.Image], prompts: list[str]) -> float:
        """Mean alignment of pictures with the other prompts: what ignoring the prompt scores."""
        cosines = self._encoder(images) @ self._encoder.text(prompts).T
        count = len(prompts)
        if count < 2:
            return 0.0
        return float((cosines.sum() - cosines.trace()) / (count * (count - 1)))
