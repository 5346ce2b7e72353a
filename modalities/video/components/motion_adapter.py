"""How a clip moves: a bottleneck beside each temporal sublayer, told what the clip looks like (DreamVideo, CVPR 2024).

Wei et al., https://arxiv.org/abs/2312.04433, section 3.2. A random frame is told in half of the steps, so that the
adapter need not learn looks, and nothing while clips are made. The paper tells it as a CLIP embedding, here it is the
frame's latents at 4x4 places, which every base has.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, PrivateAttr

from modalities.video.bottleneck import Bottleneck
from modalities.video.learner import Source

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch

PLACES = 4


class MotionAdapter(Bottleneck):
    """Learns from clips."""

    source: ClassVar[Source] = "clips"
    present: ClassVar[frozenset[Source]] = frozenset({"clips"})

    layers: str = "temporal"
    untold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the steps in which no frame is told."""

    _told: Tensor | None = PrivateAttr(default=None)

    def guide_width(self) -> int:
        return self.backbone.latent_shape(1, self.studio.resolution)[0] * PLACES**2

    def guide(self) -> Tensor | None:
        return self._told

    def batch(self, batch: Batch) -> Batch:
        """Look at one frame of each clip of the step."""
        import torch

        draws, frames = self.studio.draws, batch.latents.shape[2]
        rows = [draws.pick("told frame", position, frames) for position in batch.positions]
        seen = torch.stack([clip[:, row] for clip, row in zip(batch.latents, rows, strict=True)])
        told = torch.nn.functional.adaptive_avg_pool2d(seen, PLACES).flatten(1)
        is_untold = draws.chance("untold", batch.positions[0]) < self.untold
        self._told = None if is_untold else told
        return batch

    @contextmanager
    def working(self, is_on: bool) -> Generator[None]:
        """Forget the frame at the end of a pass; on the way back layers may be asked again."""
        with super().working(is_on):
            yield
        self._told = None
