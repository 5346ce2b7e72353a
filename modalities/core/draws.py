"""All randomness of a run, keyed by what it is for, so that resume, batch size and sharding never change it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

GOLDEN = (math.sqrt(5) - 1) / 2
# The largest float32 below 1, to which a float64 closer to 1 would be rounded up.
BELOW_ONE = 1 - 2**-24


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
        """Uniform values in [0, 1), one for each position, any neighbours among them spread evenly.

        Multiples of the golden ratio from a random start: a batch sees all noise levels, whatever its size, so the
        gradient swings less than with independent draws (Kingma et al. 2021, arXiv:2107.00630, appendix I.1).
        Values for two purposes go round together, so what must not depend on the noise level takes `chance`.
        """
        start = torch.rand(1, generator=generator(self.seed, purpose), dtype=torch.float64)
        places = torch.tensor(list(positions), dtype=torch.float64)
        return ((start + places * GOLDEN) % 1).float().clamp(max=BELOW_ONE)

    def chance(self, purpose: str, position: int) -> float:
        """A uniform value in [0, 1), independent of all others."""
        return float(torch.rand(1, generator=generator(self.seed, purpose, position)))
