"""A new word for the subject (Gal et al., ICLR 2023): its embedding learns, everything else is frozen.

https://arxiv.org/abs/2208.01618
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.concept import numbered, of_subject, phrase_of, require_word, spelled

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from modalities.core.step import Batch, Step
    from modalities.core.studio import Studio


class TextualInversion(Component):
    """Adds a token to every tokenizer and learns its embedding in every text encoder."""

    token: Annotated[str, Field(pattern=r"^\S+$")] = "<new>"
    """The new word; the recipe's `data.subject` must use it."""
    vectors: Annotated[int, Field(gt=0, le=16)] = 1
    """Embeddings that the word stands for, one after another."""
    init: str = "{noun}"
    """Words whose embeddings' mean is the start; `{noun}` is the class word."""
    start: Literal["embedding", "output"] = "embedding"
    """"output" starts from what the text encoder makes of these words, not from what it is given for them: learned
    embeddings end up there (Cross Initialization, Pang et al., CVPR 2024, https://arxiv.org/abs/2312.15905)."""
    anchor: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared distance to the start."""

    _rows: dict[str, Parameter] = PrivateAttr(default_factory=dict)
    _starts: dict[str, Tensor] = PrivateAttr(default_factory=dict)

    def prepare(self, studio: Studio) -> None:
        from modalities.core.vocabulary import add_words, mean_embedding, mean_output

        super().prepare(studio)
        for number, subject in enumerate(studio.concept.subjects, start=1):
            token = numbered(self.token, number)
            require_word(subject.phrase, token, self.name)
            text = phrase_of(self.init, subject.noun)
            for name, encoder in studio.backbone.text_encoders.items():
                tokenizer = studio.backbone.tokenizers[name]
                start = (mean_output if self.start == "output" else mean_embedding)(tokenizer, encoder, text)
                words = spelled(token, self.vectors)
                rows = add_words(tokenizer, encoder, words, start.repeat(self.vectors, 1))
                self._rows[of_subject(name, number)] = rows
        self._starts = {name: rows.detach().clone() for name, rows in self._rows.items()}

    def loss(self, step: Step, batch: Batch) -> Tensor | None:
        """The anchor, summed over text encoders and subjects."""
        if not self.anchor:
            return None
        first, *others = ((rows - self._starts[name]).square().sum() for name, rows in self._rows.items())
        return self.anchor * sum(others, first)

    def parameters(self) -> dict[str, Parameter]:
        """`<text encoder>` -> (vectors, width), of the second subject `<text encoder>.2`, and so on."""
        return dict(self._rows)
