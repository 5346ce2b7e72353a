"""The overfitting guard: how near each picture comes to one single photo, pixel by pixel.

Subject fidelity is highest for a model that repeats its photos (survey of personalized content synthesis, section
8.3, https://arxiv.org/abs/2405.05538); this score tells such a model from a good one. What is memorized is near in
pixels, not only in features (Carlini et al., USENIX Security 2023, section 4, https://arxiv.org/abs/2301.13188).
"""

from __future__ import annotations

from modalities.core.encoders import Thumbnails
from modalities.core.evidence import Evidence
from modalities.core.metric import Metric, Scores

# Of renders of the mini world, 98 % of cropped and noisy copies correlate more than this, 8 % of other views of the
# same subject in the same scene, and 1 % of views in another scene.
ALIKE = 0.8
MANY = 0.5


class Copy(Metric):
    """Correlation of each picture's thumbnail with that of the nearest photo, or of the photo mirrored.

    A picture counts as a copy when this exceeds 0.8 and what any two photos have among themselves.
    """

    title = "copy"
    axis = "overfitting"
    higher_is_better = False
    encoders = ("thumbnails",)
    needs = ("references",)

    def score(self, evidence: Evidence) -> Scores:
        photos, pictures = evidence.references("thumbnails"), evidence.features("thumbnails")
        mirrored = Thumbnails().mirrored(photos)
        nearest = (pictures @ photos.T).maximum(pictures @ mirrored.T).amax(1)
        among = (photos @ photos.T).maximum(photos @ mirrored.T).fill_diagonal_(-1.0)
        limit = max(ALIKE, float(among.max()))
        good = nearest[nearest.isfinite()]
        share = float((good > limit).float().mean()) if len(good) else 0.0
        remark = f"{share:.0%} are copies of a photo (above {limit:.3f})"
        if share > MANY:
            remark += ": the model repeats its photos"
        return Scores.of_pictures(nearest.tolist(), evidence.groups, remark)
