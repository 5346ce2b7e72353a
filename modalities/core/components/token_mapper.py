"""A word that a small network computes from layer and time (NeTI, Alaluf et al., SIGGRAPH Asia 2023, section 4).

https://arxiv.org/abs/2305.15391
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from modalities.core.concept import of_subject
from modalities.core.layered_token import LayeredToken

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from modalities.core.layered_text import Words
    from modalities.core.neural_mapper import NeuralMapper
    from modalities.core.step import Batch
    from modalities.core.studio import Studio


class TokenMapper(LayeredToken):
    """Learns the network. What it says is scaled to the norm of the class word, so that it stays a word."""

    hidden: Annotated[int, Field(gt=0)] = 128
    """Units of its two layers."""
    bypass: Annotated[float, Field(ge=0)] = 0.2
    """Share of the norm of what the text encoder makes of the word that goes past it; 0 switches the bypass off."""
    dropout: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often a step keeps only the first units (nested dropout), so that fewer units give a coarser word."""
    keep: Annotated[int, Field(gt=0)] | None = None
    """Units to use while generating, fewer for more freedom from the photos; None for all."""

    _mappers: list[NeuralMapper] = PrivateAttr(default_factory=list)
    _norms: list[float] = PrivateAttr(default_factory=list)
    _step_keeps: int | None = PrivateAttr(default=None)

    def prepare(self, studio: Studio) -> None:
        from modalities.core.draws import seeded
        from modalities.core.neural_mapper import NeuralMapper

        super().prepare(studio)
        for subject in studio.concept.subjects:
            start = self.start(subject.noun)
            self._norms.append(float(start.norm()))
            # All begin alike, so that each can be what it was in a run of its own.
            with seeded(studio.recipe.train.seed, "prepare", self.name):
                mapper = NeuralMapper(self._text.layers, self.hidden, 2 * self.vectors, len(start))
            self._mappers.append(mapper.to(studio.backbone.device))

    def batch(self, batch: Batch) -> Batch:
        """Decide how many units this step keeps."""
        draws, place = self.studio.draws, batch.positions[0]
        is_short = draws.chance("nested dropout", place) < self.dropout
        self._step_keeps = 1 + int(draws.chance("kept units", place) * self.hidden) if is_short else None
        return batch

    def words(self, t: Tensor) -> Words:
        import torch

        from modalities.core.layered_text import Words

        # Looks and pictures are made without gradients, and with all units.
        keep = self._step_keeps if torch.is_grad_enabled() else self.keep
        time = t / self.studio.backbone.schedule.length
        said = [torch.nn.functional.normalize(mapper(time, keep), dim=-1).chunk(2, dim=2) for mapper in self._mappers]
        inside = [norm * own for norm, (own, _) in zip(self._norms, said, strict=True)]
        past = torch.cat([self.bypass * own for _, own in said], dim=2) if self.bypass else None
        return Words(torch.cat(inside, dim=2), past)

    def parameters(self) -> dict[str, Parameter]:
        """Weights and biases of the network, by name; of the second subject followed by `.2`, and so on."""
        return {
            of_subject(name, number): value
            for number, mapper in enumerate(self._mappers, start=1)
            for name, value in mapper.named_parameters()
        }
