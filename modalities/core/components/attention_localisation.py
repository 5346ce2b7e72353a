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

    from modalities.core.attention import Attend, Place
    from modalities.core.step import Batch, Step
    from modalities.core.studio import Studio


class AttentionLocalisation(Component):
    """Adds `weight` times the mean square of what separates the word's attention, over its maximum, from the mask."""

    masks: MaskSource = None
    """As for `masked_loss`."""
    weight: Annotated[float, Field(ge=0)] = 0.01

    _wanted: Tensor = PrivateAttr()
    _seen: dict[str, Tensor] = PrivateAttr(default_factory=dict)

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        if not studio.training:
            return
        from modalities.core.attention import open_attention
        from modalities.core.subject_mask import masks

        self._wanted = masks(studio, self.masks).to(studio.backbone.device)
        open_attention(studio.backbone.denoiser, self._look)

    def _look(self, place: Place, attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        import torch

        from modalities.core.attention import maps

        if place.crosses and torch.is_grad_enabled():
            self._seen[place.name] = maps(query, key).mean(1)
        return attend(query, key, value)

    def loss(self, step: Step, batch: Batch) -> Tensor:
        import torch

        from modalities.core.subject_mask import finest, places_of, resized

        seen, owners = self._seen, self.studio.concept.owners
        self._seen = {}
        errors: list[Tensor] = []
        for row in (~batch.is_prior).nonzero().flatten().tolist():
            position = batch.positions[row]
            phrase = owners[self.studio.photo_at(position)].phrase
            places = places_of(self.studio.backbone, batch.prompts[row], phrase)
            if not places:
                continue
            looks = finest([one[row, :, places].mean(1) for one in seen.values()]).mean(0, keepdim=True)
            side = round(looks.shape[1] ** 0.5)
            wanted = torch.nn.functional.adaptive_avg_pool2d(self._wanted[self.studio.view_at(position)], side)
            errors.append((resized(looks / looks.max(), side) - wanted).square().mean())
        return self.weight * torch.stack(errors).mean() if errors else step.error.new_zeros(())
