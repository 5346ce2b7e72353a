"""Extended Textual Inversion: a word of its own for every cross-attention layer (P+, Voynov et al., 2023, section 3).

https://arxiv.org/abs/2303.09522. With `stages` also for every stretch of time (ProSpect, Zhang et al., SIGGRAPH Asia
2023, section 4, https://arxiv.org/abs/2305.16225).
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
    from modalities.core.studio import Studio


class TokenTable(LayeredToken):
    """Learns a table of embeddings, a row for each layer and stage; all start from the same words."""

    stages: Annotated[int, Field(gt=0, le=100)] = 1
    """Stretches of time, equally long, that have rows of their own."""

    _tables: list[Parameter] = PrivateAttr(default_factory=list)

    def prepare(self, studio: Studio) -> None:
        from torch.nn import Parameter

        super().prepare(studio)
        shape = (self.stages, self._text.layers, self.vectors, 1)
        self._tables = [Parameter(self.start(one.noun).repeat(shape)) for one in studio.concept.subjects]

    def words(self, t: Tensor) -> Words:
        import torch

        from modalities.core.layered_text import Words

        stage = (t * self.stages / self.studio.backbone.schedule.length).long().clamp(0, self.stages - 1)
        return Words(torch.cat([table[stage] for table in self._tables], dim=2))

    def parameters(self) -> dict[str, Parameter]:
        """`table` -> (stages, layers, vectors, width), of the second subject `table.2`, and so on."""
        return {of_subject("table", number): table for number, table in enumerate(self._tables, start=1)}
