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
    """Words that it shall be unlike; empty takes the other words of each step's prompts."""
    weight: Annotated[float, Field(ge=0)] = 0.01
    temperature: Annotated[float, Field(gt=0)] = 0.07
    sampled: Annotated[int, Field(gt=0)] = 4
    """How many of the positives a step compares with."""

    _word: TextualInversion = PrivateAttr()
    _near: dict[str, Tensor] = PrivateAttr(default_factory=dict)

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        earlier = itertools.takewhile(lambda part: part is not self, studio.components)
        word = next((part for part in earlier if isinstance(part, TextualInversion)), None)
        if word is None:
            raise PcsError("contrastive_steering: list textual_inversion before it, for the word that it steers.")
        self._word = word
        for name in studio.backbone.text_encoders:
            self._near[name] = self._embedded(name, self.positives)
            if not len(self._near[name]):
                raise PcsError("contrastive_steering: the base spells none of the positives in one token.")

    def _unlike(self, batch: Batch) -> list[str]:
        """The words that this step steers away from."""
        if self.negatives:
            return self.negatives
        phrases = " ".join(one.phrase for one in self.studio.concept.subjects).split()
        texts = (prompt for prompt, prior in zip(batch.prompts, batch.is_prior.tolist(), strict=True) if not prior)
        said = {word.strip(",.") for text in texts for word in text.split()}
        return sorted(said - {*phrases, *self.positives, *ARTICLES})

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
            name = key.partition(".")[0]
            near, far = self._near[name], self._embedded(name, self._unlike(batch))
            count, first = min(self.sampled, len(near)), batch.positions[0] * self.sampled
            chosen = [self.studio.draws.pick("steering", first + each, len(near)) for each in range(count)]
            losses.append(steering(rows.float(), near[chosen], far, self.temperature))
        return self.weight * torch.stack(losses).mean()


def steering(rows: Tensor, near: Tensor, far: Tensor, temperature: float) -> Tensor:
    """InfoNCE with several positives, of words `(words, width)` to unit vectors `(n, width)` like and unlike them."""
    import torch

    unit = torch.nn.functional.normalize(rows, dim=-1)
    close, away = (torch.logsumexp(unit @ one.T / temperature, -1) for one in (near, far))
    return (torch.logaddexp(close, away) - close).mean()
