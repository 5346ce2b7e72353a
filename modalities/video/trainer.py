"""One step on photos, frames and clips: a pass for each kind that something learns from, with its own adapters on."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from modalities.core.backbone import Conditioning
from modalities.core.component import Component
from modalities.core.step import Batch
from modalities.core.studio import Studio
from modalities.core.trainer import Trainer
from modalities.video.adapter import Adapter, present
from modalities.video.components.appearance_absorber import AppearanceAbsorber
from modalities.video.components.footage import Footage
from modalities.video.learner import SOURCES, Learner, Source, source_of


class VideoTrainer(Trainer):
    """Takes steps on a video base.

    In a pass, only what learns from its source takes gradients: a pass over clips leaves spatial adapters as they are,
    one over photos or frames the temporal ones. Networks stay in evaluation mode: the dropout of temporal layers would
    cost exact resuming and teaches an adapter nothing.
    """

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        self._plain_text: dict[tuple[str, ...], Conditioning] = {}

    @property
    def footage(self) -> Footage:
        """The component that holds the clips."""
        return next(part for part in self.studio.components if isinstance(part, Footage))

    def backward(self) -> float:
        learn = self._phase()[0].learn
        for network in self.studio.backbone.modules().values():
            network.eval()
        return sum(self._pass(source, learn) for source in SOURCES if self._learners(source, learn))

    def _learners(self, source: Source, learn: dict[str, float]) -> list[Component]:
        """What learns from a source in this step."""
        studio = self.studio
        found = [part for part in studio.components if part.name in learn and studio.learned_by(part.name)]
        found = [part for part in found if source_of(part) == source]
        return [part for part in found if not self._is_left_out(part)]

    def _is_left_out(self, part: Component) -> bool:
        return isinstance(part, AppearanceAbsorber) and part.is_left_out(self.step)

    def _pass(self, source: Source, learn: dict[str, float]) -> float:
        """Add the gradients of one pass; return its loss."""
        learners = self._learners(source, learn)
        for name in learn:
            for value in self.studio.learned_by(name).values():
                value.requires_grad_(any(part.name == name for part in learners))
        backbone = self.studio.backbone
        self.parts = [part for part in self.studio.components if source_of(part) == source]
        with self.working(source):
            if source == "photos":
                return super().backward()
            # No word of the subject is in a caption, so what learned on the text side has no say.
            with backbone.base_text(self._plain_text):
                return super().backward()

    @contextmanager
    def working(self, source: Source) -> Generator[None]:
        """Inside, what is present in a pass of this step works, and nothing else."""
        parts = [part for part in self.studio.components if isinstance(part, Learner)]
        with ExitStack() as stack:
            stack.enter_context(present(self.studio.backbone.modules().values(), self.adapters(source)))
            for part in parts:
                stack.enter_context(part.working(source in part.present))
            yield

    def adapters(self, source: Source) -> list[str]:
        """The LoRAs that are on in a pass of this step."""
        clip = self.footage.which(self.step) if source != "photos" else 0
        parts = [part for part in self.studio.components if isinstance(part, Adapter) and source in part.present]
        return [slot for part in parts if not self._is_left_out(part) for slot in part.slots_for(clip)]

    def batch(self) -> Batch:
        source = source_of(self.parts[0]) if self.parts else "photos"
        if source == "photos":
            return super().batch()
        batch = self.footage.clip_batch(self.step) if source == "clips" else self.footage.frame_batch(self.step)
        for part in self.parts:
            batch = part.batch(batch)
        return batch

    def seconds_per_preview(self) -> float:
        from modalities.video.generate import clip_of_studio

        sample = self.studio.recipe.sample
        few = sample.model_copy(update={"steps": 1})
        started = time.monotonic()
        clip_of_studio(self.studio, "a clip", seed=0, index=0, sample=few)
        return (time.monotonic() - started) * sample.steps
