"""Steers a word towards some words and away from others (ReVersion, Huang et al., SIGGRAPH Asia 2024, eq. 5).

https://arxiv.org/abs/2303.13495
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.components.textual_inversion import TextualInversion
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.step import Batch, Step
    from modalities.core.studio import Studio

PREPOSITIONS = (
    "about", "above", "across", "against", "along", "among", "around", "at", "before", "behind", "below", "beneath",
    "beside", "between", "by", "down", "from", "in", "inside", "into", "near", "of", "off", "on", "onto", "opposite",
    "out", "outside", "over", "past", "through", "to", "toward", "under", "up", "upon", "with", "within",
)  # fmt: skip
ARTICLES = ("a", "an", "the")


class ContrastiveSteering(Component):
    """Adds -log of the share that `positives` have of exp(cos(word, .) / temperature), beside what the subject is of.

    Needs `textual_inversion`, listed before it, for the word.
    """

    positives: Annotated[list[str], Field(min_length=1)] = list(PREPOSITIONS)
    """Words that the new one shall be like; those that the base spells in several tokens are left out."""
    negatives: list[str] = []
    """Words that it shall be unlike; empty takes the other words of the training prompts, and the class."""
    weight: Annotated[float, Field(ge=0)] = 0.01
    temperature: Annotated[float, Field(gt=0)] = 0.07
    sampled: Annotated[int, Field(gt=0)] = 8
    """How many of the positives a step compares with."""

    _word: TextualInversion = PrivateAttr()
    _known: dict[str, tuple[Tensor, Tensor]] = PrivateAttr(default_factory=dict)

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        earlier = itertools.takewhile(lambda part: part is not self, studio.components)
        word = next((part for part in earlier if isinstance(part, TextualInversion)), None)
        if word is None:
            raise PcsError("contrastive_steering: list textual_inversion before it, for the word that it steers.")
        self._word = word
        for name in studio.backbone.text_encoders:
            near, far = (self._embedded(name, words) for words in (self.positives, self._negatives()))
            if not len(near) or not len(far):
                raise PcsError("contrastive_steering: the base knows none of the positives or none of the negatives.")
            self._known[name] = near, far

    def _negatives(self) -> list[str]:
        if self.negatives:
            return self.negatives
        said = [word for text in self.studio.recipe.data.prompts for word in text.replace("{}", "").split()]
        return sorted({*said, *(one.noun for one in self.studio.concept.subjects)} - {*self.positives, *ARTICLES})

    def _embedded(self, name: str, words: list[str]) -> Tensor:
        """Embeddings of the words that are one token, of length 1."""
        import torch

        backbone = self.studio.backbone
        tokenizer, table = backbone.tokenizers[name], backbone.text_encoders[name].get_input_embeddings().weight
        spelled = (tokenizer(word, add_special_tokens=False).input_ids for word in words)
        ids = [one[0] for one in spelled if len(one) == 1]
        return torch.nn.functional.normalize(table[ids].float().detach(), dim=-1)

    def loss(self, step: Step, batch: Batch) -> Tensor:
        import torch

        losses: list[Tensor] = []
        for key, rows in self._word.parameters().items():
            near, far = self._known[key.partition(".")[0]]
            count = min(self.sampled, len(near))
            chosen = [
                self.studio.draws.pick("steering", batch.positions[0] * count + each, len(near))
                for each in range(count)
            ]
            unit = torch.nn.functional.normalize(rows.float(), dim=-1)
            close, away = (torch.logsumexp(unit @ one.T / self.temperature, -1) for one in (near[chosen], far))
            losses.append((torch.logaddexp(close, away) - close).mean())
        return self.weight * torch.stack(losses).mean()
