"""Gated rank-one editing of cross-attention with locked keys (Perfusion, Tewel et al., SIGGRAPH 2023, section 4).

https://arxiv.org/abs/2305.01644
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.components.textual_inversion import TextualInversion
from modalities.core.concept import sole, spelled
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from torch.nn import Parameter

    from modalities.core.gated_edit import Edits
    from modalities.core.step import Batch
    from modalities.core.studio import Studio


class RankOneEdit(Component):
    """Where the text says the new word, keys are those of the class ("key locking") and values are learned.

    Needs `textual_inversion`, listed before it, for the word. Learns `values`, a vector for each value projection;
    `direction`, the word's mean encoding, only follows what the text encoder makes of it.
    """

    beta: Annotated[float, Field(ge=0, le=2)] = 0.75
    """Middle of the gate, in likeness to the word: a higher one lets less of the subject in, also after training."""
    tau: Annotated[float, Field(gt=0)] = 0.1
    """Softness of the gate."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """How slowly the direction follows the word while it is learned."""
    lock_keys: bool = True
    """False learns keys as well."""

    _edits: Edits = PrivateAttr()

    def prepare(self, studio: Studio) -> None:
        from modalities.core.gated_edit import Edits

        super().prepare(studio)
        sole(studio.concept, self.name)
        earlier = itertools.takewhile(lambda part: part.name != self.name, studio.recipe.components)
        word = next((part for part in earlier if isinstance(part, TextualInversion)), None)
        if word is None:
            raise PcsError("rank_one_edit: list textual_inversion before it, for the word that it is about.")
        self._edits = Edits(studio, spelled(word.token, word.vectors), self)

    def batch(self, batch: Batch) -> Batch:
        """Let the direction follow the word as it is now."""
        self._edits.follow(self.decay)
        return batch

    def parameters(self) -> dict[str, Parameter]:
        """`direction` (text width,), and `values.<layer>` (out,) or, unlocked, `keys.<layer>` too."""
        return self._edits.parameters()
