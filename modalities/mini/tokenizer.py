"""The tokenizer of the base: byte-level BPE in CLIP's format, one token for each word of the captions."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

POSITIONS = 32
START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"

Pieces = tuple[str, ...]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> CLIPTokenizer:
    """Learn at most `vocabulary` tokens from `texts`; other words fall into pieces, down to single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    counts = Counter(word for text in texts for word in re.findall(r"[a-z]+|[^\sa-z]+", text.lower()))
    merges = _merges(counts, vocabulary - len(base) - 2)
    tokens = dict.fromkeys([*base, *("".join(pair) for pair in merges), START, END])
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=POSITIONS,
    )


def _merges(counts: Counter[str], most: int) -> list[tuple[str, str]]:
    """The merges of byte pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909), in order.

    The trainer of the tokenizers library breaks ties differently from run to run; this one never does.
    """
    words: dict[Pieces, int] = {(*word[:-1], word[-1] + WORD_END): count for word, count in counts.items()}
    merges: list[tuple[str, str]] = []
    while len(merges) < most:
        pairs: Counter[tuple[str, str]] = Counter()
        for pieces, count in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {_merged(pieces, best): count for pieces, count in words.items()}
    return merges


def _merged(pieces: Pieces, pair: tuple[str, str]) -> Pieces:
    """`pieces` with every occurrence of `pair` joined."""
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)
