"""Several processes that train one network: each takes its part of every batch, and gradients are averaged.

One thread in each of two processes is faster than two threads in one: such small layers cannot keep a second busy.
"""

import signal
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

Rows = TypeVar("Rows", Tensor, np.ndarray, list[np.ndarray])


def rank() -> int:
    """Which member of the team this process is; 0 leads, writes files and shows progress."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mine(rows: Rows) -> Rows:
    """The part of a batch that this process works on: every n-th row of a tensor, an array or a list."""
    return rows[rank() :: size()] if size() > 1 else rows


def averaged(gradients: Sequence[Tensor], flags: Sequence[bool]) -> list[bool]:
    """Replace gradients by their mean over the team; of each flag, return whether anyone raised it."""
    if not dist.is_initialized():
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.float32, device=gradients[0].device)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), raised])
    dist.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient)).div_(size())
        start += gradient.numel()
    return (flat[start:] > 0).tolist()


def wait() -> None:
    """Go on when all of the team have come here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def gathered(count: int, work: Callable[..., None], *arguments: Any) -> Generator[None]:
    """Make this process the leader of a team of `count`; the others call `work(*arguments)`.

    They must come to the same trainings as the body of the `with` statement. A team of one is no team.
    """
    if count == 1 or dist.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_member, args=(meeting, number, count, work, arguments), daemon=True)
            for number in range(1, count)
        ]
        for process in others:
            process.start()
        dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=count)
        try:
            yield
        finally:
            # Who leaves first would cut the line to those who still wait for each other.
            for process in others:
                process.join(timeout=30)
                process.kill()
            dist.destroy_process_group()


def _member(meeting: str, number: int, count: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches every process of a terminal; the leader decides when the team stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=number, world_size=count)
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()
