"""Subject fidelity by CLIP: cosine of image features (Gal et al., ICLR 2023, section 4.2).

https://arxiv.org/abs/2208.01618
"""

from __future__ import annotations

from modalities.core.evidence import Evidence
from modalities.core.metric import Metric, Scores
from modalities.core.metrics.dino_i import likeness


class ClipI(Metric):
    """Mean cosine of each picture with the photos, as CLIP sees them. It also sees the scene, unlike DINO-I."""

    title = "CLIP-I"
    axis = "subject"
    encoders = ("clip",)
    needs = ("references",)

    def score(self, evidence: Evidence) -> Scores:
        return likeness(evidence, "clip")
