"""The overfitting guard: how near each picture comes to one single photo, scene and all.

Subject fidelity is highest for a model that repeats its photos (survey of personalized content synthesis, section
8.3, https://arxiv.org/abs/2405.05538); this score tells such a model from a good one.
"""

from __future__ import annotations

from modalities.core.evidence import Evidence
from modalities.core.metric import Metric, Scores

# With one photo there is nothing to compare with: two pictures of one scene are about as alike as this.
ALIKE = 0.95
MANY = 0.5


class Copy(Metric):
    """Cosine of each picture with the photo nearest to it, as CLIP sees them, scene included.

    A picture counts as a copy when it is nearer to a photo than any two photos are to each other.
    """

    title = "copy"
    axis = "overfitting"
    higher_is_better = False
    encoders = ("clip",)
    needs = ("references",)

    def score(self, evidence: Evidence) -> Scores:
        photos = evidence.references("clip")
        nearest = (evidence.features("clip") @ photos.T).amax(1)
        among = (photos @ photos.T).fill_diagonal_(-1.0)
        limit = float(among.max()) if len(photos) > 1 else ALIKE
        good = nearest[nearest.isfinite()]
        share = float((good > limit).float().mean()) if len(good) else 0.0
        remark = f"{share:.0%} are nearer to a photo than any two photos are ({limit:.3f})"
        if share > MANY:
            remark += ": the model repeats its photos"
        return Scores.of_pictures(nearest.tolist(), evidence.groups, remark)
