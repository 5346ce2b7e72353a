"""What the subject looks like: a bottleneck beside each attention to the text (DreamVideo, Wei et al., CVPR 2024).

https://arxiv.org/abs/2312.04433, section 3.1. It learns after the subject's word, which is frozen then.
"""

from __future__ import annotations

from typing import ClassVar

from modalities.video.bottleneck import Bottleneck
from modalities.video.learner import Source


class IdentityAdapter(Bottleneck):
    """Learns from photos; present on clips while they are made, not while a motion is learned."""

    source: ClassVar[Source] = "photos"
    present: ClassVar[frozenset[Source]] = frozenset({"photos"})

    layers: str = "cross_attention"
