"""The words around the subject's keep their meaning (CoRe, Wu et al., AAAI 2025, section 3.3).

https://arxiv.org/abs/2408.15914
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from modalities.core.component import Component, Template
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch, Step
    from modalities.core.studio import Studio


class ContextRegulariser(Component):
    """Adds `weight` times what the other places of a prompt's encoding differ from when the class word stands there.

    The prompts need no pictures. A word of several vectors is held against the class word said as often.
    """

    weight: Annotated[float, Field(ge=0)] = 0.1
    prompts: Annotated[list[Template], Field(min_length=1)] = [
        "a photo of a {} in the snow",
        "a {} on the beach",
        "a painting of a {}",
        "a {} in a city at night",
        "a red {} on a table",
        "a {} wearing a hat",
    ]
    """One of them, in turn, in each step; the slot takes the subject."""

    _pairs: list[tuple[str, Tensor, list[int]]] = PrivateAttr(default_factory=list)

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        if any(part.name in ("token_table", "token_mapper") for part in studio.recipe.components):
            raise PcsError("context_regulariser: cannot hold words that change with layer and time.")
        if len(studio.backbone.text_encoders) != 1:
            raise PcsError("context_regulariser: needs a base with one text encoder.")

    def _prepared(self) -> list[tuple[str, Tensor, list[int]]]:
        """Prompts with the subject, what stands where it does not when the class is said, and where that is."""
        import torch

        from modalities.core.subject_mask import places_of

        backbone = self.studio.backbone
        pairs: list[tuple[str, Tensor, list[int]]] = []
        for one in self.studio.concept.subjects:
            for template in self.prompts:
                prompt = one.prompt(template)
                own = places_of(backbone, prompt, one.phrase)
                plain = places_of(backbone, one.class_prompt(template), one.noun)
                repeated = " ".join([one.noun] * max(1, len(own) // max(1, len(plain))))
                with torch.no_grad():
                    (states,) = backbone.embed([one.prompt(template).replace(one.phrase, repeated)]).tensors.values()
                kept = [place for place in range(1, states.shape[1]) if place not in own]
                pairs.append((prompt, states[0].detach(), kept))
        return pairs

    def loss(self, step: Step, batch: Batch) -> Tensor:
        # What the class makes of its neighbours does not change with a word that alone learns.
        if not self._pairs:
            self._pairs = self._prepared()
        place = self.studio.draws.pick("context", batch.positions[0], len(self._pairs))
        prompt, wanted, kept = self._pairs[place]
        (states,) = self.studio.backbone.embed([prompt]).tensors.values()
        return self.weight * (states[0, kept] - wanted[kept]).square().sum(-1).mean()
