"""The subject's word looks where the subject is (Break-a-Scene, Avrahami et al., SIGGRAPH Asia 2023, eq. 2).

https://arxiv.org/abs/2305.16311
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.media import MaskSource

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch, Step
    from modalities.core.studio import Studio
    from modalities.core.text_attention import TextAttention


class AttentionLocalisation(Component):
    """Adds `weight` times the mean square of what separates the word's attention, over its maximum, from the mask."""

    masks: MaskSource = None
    """As for `masked_loss`."""
    weight: Annotated[float, Field(ge=0)] = 0.01

    _wanted: Tensor = PrivateAttr()
    _looks: TextAttention = PrivateAttr()

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        if not studio.training:
            return
        from modalities.core.subject_mask import masks
        from modalities.core.text_attention import TextAttention

        self._wanted = masks(studio, self.masks).to(studio.backbone.device)
        self._looks = TextAttention(studio.backbone.denoiser)

    def loss(self, step: Step, batch: Batch) -> Tensor:
        import torch

        from modalities.core.subject_mask import places_of

        owners = self.studio.concept.owners
        errors: list[Tensor] = []
        for row in (~batch.is_prior).nonzero().flatten().tolist():
            position = batch.positions[row]
            phrase = owners[self.studio.photo_at(position)].phrase
            places = places_of(self.studio.backbone, batch.prompts[row], phrase)
            if not places:
                continue
            looks = self._looks.of(row, places)
            wanted = torch.nn.functional.adaptive_avg_pool2d(self._wanted[self.studio.view_at(position)], len(looks))
            errors.append((looks - wanted[0]).square().mean())
        self._looks.forget()
        return self.weight * torch.stack(errors).mean() if errors else step.error.new_zeros(())
