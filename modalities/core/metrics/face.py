"""Face identity: cosine of ArcFace embeddings (Deng et al., CVPR 2019), detector and embedder by insightface.

https://arxiv.org/abs/1801.07698
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from PIL import Image

from modalities.core.evidence import Evidence
from modalities.core.metric import Absent, Metric, Scores

MODEL = "buffalo_l"


class Face(Metric):
    """Mean cosine of the largest face in each picture with those in the photos.

    A picture without a face counts as failed and not as 0; the number of such pictures stands beside the mean.
    """

    title = "face identity"
    axis = "subject"
    needs = ("references",)

    def checkpoint(self, evidence: Evidence) -> str:
        return f"insightface {_model()}"

    def score(self, evidence: Evidence) -> Scores:
        faces = detector()
        known = [found for photo in evidence.photos if (found := largest_face(faces, photo.open())) is not None]
        if not evidence.photos:
            raise Absent("needs photos of the person: give --against PHOTOS.")
        if not known:
            raise Absent("found no face in any of the photos.")
        references = np.stack(known)
        values: list[float] = []
        for images in evidence.batches():
            for image in images:
                found = largest_face(faces, image) if image is not None else None
                values.append(math.nan if found is None else float((references @ found).mean()))
        missing = sum(math.isnan(value) for value in values)
        remark = f"no face in {missing} of {len(values)} pictures" if missing else ""
        return Scores.of_pictures(values, evidence.groups, remark)


def detector() -> Any:
    """The detector and embedder.

    Raises:
        Absent: insightface or its weights are not here.
    """
    try:
        from insightface.app import FaceAnalysis  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise Absent("needs insightface: pip install insightface onnxruntime.") from None
    try:
        faces = FaceAnalysis(name=_model(), root=os.environ.get("PCS_INSIGHTFACE", "~/.insightface"))
        faces.prepare(ctx_id=-1)
    except Exception as error:
        raise Absent(f"insightface cannot load {_model()} ({error}); set PCS_INSIGHTFACE to its folder.") from error
    return faces


def _model() -> str:
    return os.environ.get("PCS_INSIGHTFACE_MODEL", MODEL)


def largest_face(faces: Any, image: Image.Image) -> np.ndarray | None:
    """Unit embedding (width,) of the largest face, None if there is none."""
    # insightface reads BGR, as OpenCV does.
    found = faces.get(np.asarray(image.convert("RGB"))[:, :, ::-1])
    if not found:
        return None
    widest = max(found, key=lambda face: float((face.bbox[2] - face.bbox[0]) * (face.bbox[3] - face.bbox[1])))
    return np.asarray(widest.normed_embedding, np.float32)
