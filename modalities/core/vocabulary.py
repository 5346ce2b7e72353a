"""New words for a frozen text encoder: rows of their own behind its embedding table, which alone learn."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import Parameter

from modalities.core.errors import PcsError


def add_words(tokenizer: Any, encoder: Any, words: list[str], start: Float[Tensor, "words width"]) -> Parameter:
    """Teach tokenizer and text encoder new words; return their embeddings, `(words, width)`, which may learn.

    Raises:
        PcsError: the tokenizer knows one of them already.
    """
    first = _add_tokens(tokenizer, words)
    extended = ExtendedEmbedding(encoder.get_input_embeddings(), first, Parameter(start.detach().clone()))
    encoder.set_input_embeddings(extended)
    assert isinstance(extended.rows, Parameter)
    return extended.rows


def add_changing_words(tokenizer: Any, encoder: Any, words: list[str]) -> ExtendedEmbedding:
    """Teach tokenizer and text encoder words that are nothing until `rows` of what is returned says what they are.

    Raises:
        PcsError: the tokenizer knows one of them already.
    """
    table = encoder.get_input_embeddings()
    nothing = table.weight.new_zeros(len(words), table.weight.shape[1])
    extended = ExtendedEmbedding(table, _add_tokens(tokenizer, words), nothing)
    encoder.set_input_embeddings(extended)
    return extended


def _add_tokens(tokenizer: Any, words: list[str]) -> int:
    """Add words to a tokenizer; return the id of the first."""
    known = [word for word in words if _is_known(tokenizer, word)]
    if known:
        raise PcsError(f"the base already knows the token {known[0]}; choose another.")
    tokenizer.add_tokens(words)
    return int(tokenizer.convert_tokens_to_ids(words[0]))


def _is_known(tokenizer: Any, word: str) -> bool:
    """Whether a word has a token of its own; its text there may have marks of the tokenizer's."""
    pieces = tokenizer.tokenize(word)
    return word in tokenizer.get_vocab() or (len(pieces) == 1 and pieces[0] != tokenizer.unk_token)


def new_words(module: nn.Module) -> list[Parameter]:
    """Return the embeddings that `add_words` put into a network."""
    rows = [part.rows for part in module.modules() if isinstance(part, ExtendedEmbedding)]
    return [one for one in rows if isinstance(one, Parameter)]


@contextmanager
def without_new_words(network: Any) -> Generator[None]:
    """Inside the block a text encoder has the embedding table that its class expects; other networks stay."""
    has_words = any(isinstance(part, ExtendedEmbedding) for part in network.modules())
    extended = network.get_input_embeddings() if has_words else None
    table = extended
    while isinstance(table, ExtendedEmbedding):
        table = table.table
    try:
        if extended:
            network.set_input_embeddings(table)
        yield
    finally:
        if extended:
            network.set_input_embeddings(extended)


def mean_embedding(tokenizer: Any, encoder: Any, text: str) -> Float[Tensor, " width"]:
    """Return the mean of the embeddings of `text`, float32.

    Raises:
        PcsError: the text has no token.
    """
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise PcsError(f'"{text}" has no token to start from.')
    table: Tensor = encoder.get_input_embeddings().weight
    return table[torch.tensor(ids, device=table.device)].float().mean(0)


def mean_output(tokenizer: Any, encoder: Any, text: str) -> Float[Tensor, " width"]:
    """Return the mean of what a text encoder makes of `text`, at its own positions, float32.

    Raises:
        PcsError: the text has no token, or the encoder's output is not as wide as its embeddings.
    """
    inner = len(tokenizer(text, add_special_tokens=False).input_ids)
    if not inner:
        raise PcsError(f'"{text}" has no token to start from.')
    tokens = tokenizer(text, return_tensors="pt").to(encoder.device)
    with torch.no_grad():
        output = encoder(tokens.input_ids).last_hidden_state[0]
    if output.shape[-1] != encoder.get_input_embeddings().weight.shape[-1]:
        raise PcsError("textual_inversion: the output of this text encoder is not as wide as its embeddings.")
    # One token for the start of the text stands before.
    return output[1 : 1 + inner].float().mean(0)


class ExtendedEmbedding(nn.Module):
    """An embedding table whose ids from `first` on are `rows`: `(words, width)`, or `(batch, words, width)`."""

    def __init__(self, table: nn.Module, first: int, rows: Tensor) -> None:
        super().__init__()
        self.table = table
        self.first = first
        self.rows = rows

    @property
    def weight(self) -> Tensor:
        """The table of the words that the base knew."""
        return self.table.weight  # pyright: ignore

    def forward(self, ids: Int[Tensor, ...]) -> Float[Tensor, "... width"]:
        """Look ids up."""
        is_new = ids >= self.first
        known = self.table(torch.where(is_new, 0, ids))
        places = torch.where(is_new, ids - self.first, 0)
        if self.rows.ndim == 3:
            new = self.rows[torch.arange(len(ids), device=ids.device)[:, None], places]
        else:
            new = nn.functional.embedding(places, self.rows)
        return torch.where(is_new[..., None], new.to(known.dtype), known)
