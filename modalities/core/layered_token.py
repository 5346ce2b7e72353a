"""What components have in common whose word for the subject is another in every layer and at every time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.concept import numbered, phrase_of, require_word, spelled

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.layered_text import LayeredText, Words
    from modalities.core.studio import Studio


class LayeredToken(Component):
    """Adds a token whose embedding depends on the cross-attention layer and the time; `words` says how."""

    exclusive: ClassVar[str | None] = "say what the new word is in every layer"

    token: Annotated[str, Field(pattern=r"^\S+$")] = "<new>"
    """The new word; the recipe's `data.subject` must use it."""
    vectors: Annotated[int, Field(gt=0, le=16)] = 1
    """Embeddings that the word stands for, one after another."""
    init: str = "{noun}"
    """Words whose embeddings' mean is the start; `{noun}` is the class word."""

    _text: LayeredText = PrivateAttr()

    def words(self, t: Tensor) -> Words:
        """What the words of all subjects, one after another, are at the times `t`, `(n,)` in the base's own units."""
        raise NotImplementedError

    def prepare(self, studio: Studio) -> None:
        from modalities.core.layered_text import LayeredText

        super().prepare(studio)
        words: list[str] = []
        for number, subject in enumerate(studio.concept.subjects, start=1):
            token = numbered(self.token, number)
            require_word(subject.phrase, token, self.name)
            words += spelled(token, self.vectors)
        self._text = LayeredText(studio.backbone, words, self.words)

    def start(self, noun: str) -> Tensor:
        """The mean embedding of the words that a subject's token starts from, `(width,)` float32."""
        from modalities.core.vocabulary import mean_embedding

        backbone = self.studio.backbone
        ((name, encoder),) = backbone.text_encoders.items()
        return mean_embedding(backbone.tokenizers[name], encoder, phrase_of(self.init, noun))
