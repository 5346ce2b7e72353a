"""What everything that learns on a video base has in common: what it learns from, and in which passes it works."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PrivateAttr

from modalities.core.component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.video.backbone import VideoBackbone

Source = Literal["photos", "frames", "clips"]
"""What one pass of a step looks at: photos of the subject, single frames of the clips, or whole clips."""
SOURCES: tuple[Source, ...] = ("photos", "frames", "clips")


def source_of(part: Component) -> Source:
    """What a component learns from; those of the core learn from photos."""
    return getattr(part, "source", "photos")


class Learner(Component):
    """Learns from one source and works in the passes of `present` and while sampling, with a weight.

    One that is not `kept` is dropped after training.
    """

    source: ClassVar[Source]
    present: ClassVar[frozenset[Source]]
    kept: ClassVar[bool] = True

    weight: float = 1.0
    """How strongly it works while sampling."""

    @property
    def backbone(self) -> VideoBackbone:
        """The base, which takes clips."""
        return self.studio.backbone  # pyright: ignore

    @contextmanager
    def working(self, is_on: bool) -> Generator[None]:
        """Inside, it works as in training, or not at all; LoRAs are switched together, by `adapter.present`."""
        yield

    def portable(self) -> dict[str, Tensor]:
        """What it learned, for its own file: `unet.<module>…`, float32 on the CPU."""
        return {name: value.detach().cpu().float().contiguous() for name, value in self.parameters().items()}

    def told(self) -> dict[str, object]:
        """What its file says of it."""
        return {}


class Hooked(Learner):
    """Works by hooks on the denoiser's layers, which add `_strength` times what it learned."""

    _strength: float = PrivateAttr(default=0.0)

    @contextmanager
    def working(self, is_on: bool) -> Generator[None]:
        """Switch it on or off for one pass."""
        with self._at(float(is_on)):
            yield

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        """Put what it learned in place, with its weight."""
        with self._at(self.weight):
            yield

    @contextmanager
    def _at(self, strength: float) -> Generator[None]:
        before, self._strength = self._strength, strength
        try:
            yield
        finally:
            self._strength = before
