"""Takes up what a clip looks like, so that what learns its motion need not (Ren et al., ECCV 2024, section 4.2).

https://arxiv.org/abs/2402.14780 — with one LoRA for each clip it is the spatial path of MotionDirector on clips (Zhao
et al., ECCV 2024, https://arxiv.org/abs/2310.08465).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from modalities.video.adapter import Adapter
from modalities.video.learner import Source

if TYPE_CHECKING:
    from modalities.video.concept import VideoConcept


class AppearanceAbsorber(Adapter):
    """A LoRA of the spatial layers, learned from single frames, frozen in passes over clips, dropped after training."""

    source: ClassVar[Source] = "frames"
    present: ClassVar[frozenset[Source]] = frozenset({"frames", "clips"})
    kept: ClassVar[bool] = False

    layers: str = "spatial"
    per_clip: bool = True
    """A LoRA for each clip, as MotionDirector has; else one for all."""
    left_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of steps in which it neither learns nor works, so that the motion also learns without it."""

    def slots(self) -> tuple[str, ...]:
        concept: VideoConcept = self.studio.concept  # pyright: ignore
        count = len(concept.clips) if self.per_clip else 1
        return tuple(f"{self.name}_{number}" for number in range(count)) if count > 1 else (self.name,)

    def slots_for(self, clip: int) -> tuple[str, ...]:
        slots = self.slots()
        return (slots[clip],) if len(slots) > 1 else slots

    def is_left_out(self, step: int) -> bool:
        """Whether this step goes without it."""
        return self.studio.draws.chance("absorber", step) < self.left_out
