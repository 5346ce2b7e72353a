"""How much the subject's word is attended to (DisDiff, Liu et al., ACM MM 2024): moved, the word loses its meaning.

https://arxiv.org/abs/2405.20584
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core.attention import maps, opened
from modalities.core.subject_mask import finest, places_of

if TYPE_CHECKING:
    from modalities.core.attention import Attend, Place
    from modalities.core.backbone import Backbone
    from modalities.core.concept import Concept

# As in the released code: attention is sharpened before words are compared.
SHARP = 100.0


@dataclass(frozen=True)
class Looks:
    """What every place of a batch took of every word, layer by layer, `(b, places, words)`."""

    backbone: Backbone
    prompts: tuple[str, ...]
    identifier: str
    layers: list[Float[Tensor, "b places words"]] = field(default_factory=list)

    def erased(self) -> Float[Tensor, " b"]:
        """The attention erasure loss: 1 where nothing looks at the identifier, 0 where everything does."""
        return torch.stack([self._erased(row, prompt) for row, prompt in enumerate(self.prompts)])

    def _erased(self, row: int, prompt: str) -> Tensor:
        words, own = (places_of(self.backbone, prompt, text) for text in (prompt, self.identifier))
        taken = finest([one[row] for one in self.layers]).mean(0)[:, words]
        energy = (SHARP * taken).softmax(-1).square()
        share = energy[:, [words.index(place) for place in own]].sum() / energy.sum()
        return (1 - share).square()


@contextmanager
def looking(backbone: Backbone, prompts: tuple[str, ...], identifier: str) -> Generator[Looks]:
    """Inside the block the denoiser's cross-attention is kept, differentiable."""
    looks = Looks(backbone, prompts, identifier)

    def look(place: Place, attend: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if place.crosses:
            looks.layers.append(maps(query, key).mean(1))
        return attend(query, key, value)

    with opened(backbone.denoiser, look):
        yield looks


def identifier_of(concept: Concept) -> str:
    """The words that stand for the subject before its class word; the class word where there are none."""
    own = concept.phrase.removesuffix(concept.noun).strip()
    return own or concept.noun
