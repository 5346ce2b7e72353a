"""Language drift: what became of the class, judged by what the learned model draws when only the class is asked for.

The PRES of DreamBooth (Ruiz et al., CVPR 2023, section 4.3): class pictures that look like the subject.
https://arxiv.org/abs/2208.12242
"""

from __future__ import annotations

from modalities.core.evidence import Evidence
from modalities.core.metric import Absent, Metric, Scores


class Drift(Metric):
    """Cosine of class pictures with the photos, above that of the base's own class pictures; 0 is no drift."""

    title = "drift"
    axis = "overfitting"
    higher_is_better = False
    encoders = ("subject",)
    needs = ("references", "class pictures")

    def score(self, evidence: Evidence) -> Scores:
        if evidence.class_pictures is None:
            raise Absent("needs a run, which can draw the class; a folder of pictures cannot.")
        photos = evidence.references("subject")
        learned, base = evidence.class_pictures()
        encoder = evidence.encoder("subject")
        after, before = ((encoder(pictures) @ photos.T).mean(1) for pictures in (learned, base))
        return Scores.of_pictures((after - before).tolist(), [str(number) for number in range(len(after))])
