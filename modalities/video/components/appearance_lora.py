"""What the subject looks like: a LoRA of the spatial layers, learned from photos as single frames.

The spatial path of MotionDirector (Zhao et al., ECCV 2024, section 3.2). https://arxiv.org/abs/2310.08465
"""

from __future__ import annotations

from typing import ClassVar

from modalities.video.adapter import Adapter
from modalities.video.learner import Source


class AppearanceLora(Adapter):
    """Saved as appearance.safetensors, under the names that an image LoRA has."""

    source: ClassVar[Source] = "photos"
    present: ClassVar[frozenset[Source]] = frozenset({"photos"})

    layers: str = "spatial"
