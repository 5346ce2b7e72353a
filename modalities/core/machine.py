"""What a run may use of the machine: its device, its cache, its network, its encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modalities.core import bases
from modalities.core.cache import Cache
from modalities.core.device import Device
from modalities.core.encoders import CLIP, SUBJECT_ENCODER, ImageEncoder, TextImageEncoder
from modalities.core.errors import PcsError
from modalities.core.kept_base import KeptBase

if TYPE_CHECKING:
    from modalities.core.backbone import Backbone


@dataclass(frozen=True)
class Machine:
    """Chosen once for a command and passed to whatever computes.

    Attributes:
        device: where to compute.
        cache: where frozen results are kept.
        offline: never use the network.
        subject_encoder: transformers folder or Hub id of the image encoder that scores likeness.
        clip: the same of the text-image encoder that scores prompts.
        kept: where a base stays loaded between pieces of work; None loads it for each.
    """

    device: Device
    cache: Cache
    offline: bool = False
    subject_encoder: str = SUBJECT_ENCODER
    clip: str = CLIP
    kept: KeptBase | None = None

    def backbone(self, name: str, modality: str | None = None) -> Backbone:
        """The base of that name, bare; with `kept`, what worked on it before must not be used any more.

        modality: what it is to be used for; all but "video" want pictures.

        Raises:
            PcsError: it is not there, damaged, served by no backbone, or makes clips where pictures are wanted.
        """

        def load() -> Backbone:
            base = bases.resolve(name)
            if modality != "video" and bases.family(base, offline=self.offline, modality=modality).makes_clips:
                raise PcsError(f"{name}: is a base for clips; use `pcs video`, or take a base for pictures.")
            return bases.load(base, self.device, offline=self.offline, modality=modality)

        return self.kept.bare((name, modality), load) if self.kept else load()

    def encoders(self) -> tuple[ImageEncoder, TextImageEncoder]:
        """Load the two encoders."""
        return (
            ImageEncoder(self.subject_encoder, self.device.torch, offline=self.offline),
            TextImageEncoder(self.clip, self.device.torch, offline=self.offline),
        )
