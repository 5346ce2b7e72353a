"""The only module that names cuda: which device, which precision, how many threads, how much memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil
import torch

from modalities.core.errors import PcsError, did_you_mean

SMALL_NET = 50_000_000


@dataclass(frozen=True)
class Device:
    """Where a run computes.

    Attributes:
        kind: "cpu", "cuda" or "mps".
        dtype: precision of frozen weights; what learns is always float32.
        threads: CPU threads that one operation of a large net uses.
        memory_gb: memory that is free now, in 10^9 bytes.
        title: the device in words.
    """

    kind: str
    dtype: torch.dtype
    threads: int
    memory_gb: float
    title: str

    @property
    def torch(self) -> torch.device:
        """The torch device."""
        return torch.device(self.kind)


def choose(name: str = "auto") -> Device:
    """Pick the device: a GPU when there is one, in bfloat16 where it can, else the CPU in float32.

    Raises:
        PcsError: the named device is unknown or not there.
    """
    there = _there()
    if name == "auto":
        name = there[0]
    if name not in there:
        raise PcsError(f'device "{name}" is not there; {did_you_mean(name, [*there, "auto"])}')
    if name == "cuda":
        free, _total = torch.cuda.mem_get_info()
        # Half precision without loss scaling loses small gradients, so older GPUs compute in float32.
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        return Device("cuda", dtype, _threads(), free / 1e9, torch.cuda.get_device_name())
    free = psutil.virtual_memory().available / 1e9
    if name == "mps":
        return Device("mps", torch.float32, _threads(), free, "Apple GPU")
    return Device("cpu", torch.float32, _threads(), free, "CPU")


def set_threads(device: Device, parameters: int) -> int:
    """Choose how many CPU threads one operation uses for a denoiser of that size; return it.

    One, for a small net: a barrier after every small operation costs more than a second thread saves, and when
    another process wants the core it costs 10 to 100 times the whole step. The number depends on nothing else,
    because the last bits of a result depend on it.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = 1 if parameters < SMALL_NET and not asked else device.threads
    torch.set_num_threads(threads)
    return threads


def _there() -> list[str]:
    names = ["cpu"]
    if torch.backends.mps.is_available():
        names.insert(0, "mps")
    if torch.cuda.is_available():
        names.insert(0, "cuda")
    return names


def _threads() -> int:
    """Threads for one process: those it may run on, unless OMP_NUM_THREADS says otherwise."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked.isdigit() and int(asked) > 0 else usable


def peak_memory_mb(kind: str) -> float:
    """Most memory used so far, in 10^6 bytes: of the process on a CPU, of the allocator on a GPU."""
    if kind == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    import resource

    # Linux counts kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
