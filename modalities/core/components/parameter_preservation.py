"""The parameter preservation loss of MVDream's DreamBooth (Shi et al., ICLR 2024, section 3.3): stay near the base.

https://arxiv.org/abs/2308.16512 — in place of pictures of the class, whose views would have to be made first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from modalities.core.component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch, Step
    from modalities.core.studio import Studio


class ParameterPreservation(Component):
    """Adds the mean absolute change of what one component learns."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    of: str = "full_finetune"
    """The component whose parameters shall stay near what they were."""

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        studio.keeps_base = True

    def loss(self, step: Step, batch: Batch) -> Tensor | None:
        import torch

        pairs = list(self.studio.changes(self.of))
        apart = torch.stack([(now - before).abs().sum() for now, before in pairs]).sum()
        return self.weight * apart / sum(now.numel() for now, _ in pairs)
