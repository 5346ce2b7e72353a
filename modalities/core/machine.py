"""What a run may use of the machine: its device, its cache, its network, its encoders."""

from __future__ import annotations

from dataclasses import dataclass

from modalities.core.cache import Cache
from modalities.core.device import Device
from modalities.core.encoders import CLIP, SUBJECT_ENCODER, ImageEncoder, TextImageEncoder


@dataclass(frozen=True)
class Machine:
    """Chosen once for a command and passed to whatever computes.

    Attributes:
        device: where to compute.
        cache: where frozen results are kept.
        offline: never use the network.
        subject_encoder: transformers folder or Hub id of the image encoder that scores likeness.
        clip: the same of the text-image encoder that scores prompts.
    """

    device: Device
    cache: Cache
    offline: bool = False
    subject_encoder: str = SUBJECT_ENCODER
    clip: str = CLIP

    def encoders(self) -> tuple[ImageEncoder, TextImageEncoder]:
        """Load the two encoders."""
        return (
            ImageEncoder(self.subject_encoder, self.device.torch, offline=self.offline),
            TextImageEncoder(self.clip, self.device.torch, offline=self.offline),
        )
