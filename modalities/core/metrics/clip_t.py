"""Prompt fidelity: CLIP-T, the cosine of picture and prompt (Hessel et al., EMNLP 2021, without its factor 2.5).

https://arxiv.org/abs/2104.08718
"""

from __future__ import annotations

import torch
from PIL import Image

from modalities.core.encoders import TextImageEncoder
from modalities.core.evidence import Evidence
from modalities.core.metric import Metric, Scores


class TextAlignment:
    """Cosine in [-1, 1] between a picture and its prompt, with the class word in the subject's place."""

    def __init__(self, encoder: TextImageEncoder) -> None:
        self._encoder = encoder

    def score(self, images: list[Image.Image], prompts: list[str]) -> tuple[float, float]:
        """Mean alignment of pictures, prompt i for picture i, and their mean alignment with the others' prompts.

        The second is what ignoring one's own prompt scores; 0 where all share one prompt.
        """
        cosines = self._encoder(images) @ self._encoder.text(prompts).T
        is_other = torch.tensor([[mine != other for other in prompts] for mine in prompts])
        return float(cosines.diagonal().mean()), float(cosines[is_other].mean()) if is_other.any() else 0.0


class ClipT(Metric):
    """Cosine of each picture with its prompt, the class word in the subject's place."""

    title = "CLIP-T"
    axis = "text"
    encoders = ("clip",)
    needs = ("prompts",)

    def score(self, evidence: Evidence) -> Scores:
        cosines = (evidence.features("clip") * evidence.words).sum(1)
        return Scores.of_pictures(cosines.tolist(), evidence.groups)
