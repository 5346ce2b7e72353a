"""How a clip moves: a LoRA of the temporal layers, learned from whole clips.

The temporal path of MotionDirector (Zhao et al., ECCV 2024, section 3.2). https://arxiv.org/abs/2310.08465
"""

from __future__ import annotations

from typing import ClassVar

from modalities.video.adapter import Adapter
from modalities.video.learner import Source


class MotionLora(Adapter):
    """Saved as motion.safetensors; `layers: temporal.qk` is the variant that keeps the values frozen."""

    source: ClassVar[Source] = "clips"
    present: ClassVar[frozenset[Source]] = frozenset({"clips"})

    layers: str = "temporal"
