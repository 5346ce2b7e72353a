"""All randomness of a run, keyed by what it is for, so that resume, batch size and sharding never change it."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor


def generator(*key: object) -> torch.Generator:
    """Return a CPU generator whose stream depends on `key` alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextmanager
def seeded(*key: object) -> Generator[None]:
    """Run a block whose use of torch's global CPU generator depends on `key` alone; the outside is unaffected."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(*key).initial_seed())
        yield


class Draws:
    """The draws of one training run. The `position` of an item counts items since the run began.

    Item i of step s at batch size B stands at position s*B + i, so the same photos meet the same noise in the
    same order at any batch size.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def pick(self, purpose: str, position: int, count: int) -> int:
        """Which of `count` things stands at `position`: every one once, shuffled anew, then again."""
        epoch, place = divmod(position, count)
        order = torch.randperm(count, generator=generator(self.seed, purpose, epoch))
        return int(order[place])

    def normal(self, purpose: str, positions: Sequence[int], shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Standard normal values, one item of `shape` for each position."""
        return torch.stack([torch.randn(*shape, generator=generator(self.seed, purpose, place)) for place in positions])

    def uniform(self, purpose: str, positions: Sequence[int]) -> Float[Tensor, " b"]:
        """Uniform values in [0, 1), one for each position."""
        return torch.cat([torch.rand(1, generator=generator(self.seed, purpose, place)) for place in positions])
