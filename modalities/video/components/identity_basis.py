"""What a clip shows, from its frames in no order: the first of Set-and-Sequence's two stages (Abdal et al., 2025).

https://arxiv.org/abs/2502.14844, section 4.1; for bases without temporal layers.
"""

from __future__ import annotations

from typing import ClassVar

from modalities.video.adapter import Adapter
from modalities.video.learner import Source


class IdentityBasis(Adapter):
    """A LoRA learned from single frames and kept: frozen in passes over clips, it holds the looks."""

    source: ClassVar[Source] = "frames"
    present: ClassVar[frozenset[Source]] = frozenset({"frames", "clips"})

    layers: str = "spatial"
