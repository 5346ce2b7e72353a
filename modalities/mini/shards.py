"""Rendered training pictures on disk, in shards that survive a kill, and their captions."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modalities.core.files import replacing
from modalities.core.progress import Progress, StopRequest
from modalities.mini.captions import caption
from modalities.mini.world import Scene, render

SHARD = 4000


def fingerprint(size: int) -> str:
    """Short hash of what the renderer draws now, from a few sample scenes: changes when any picture would."""
    digest = hashlib.sha256()
    for seed in range(40):
        digest.update(render(Scene.random(seed), size).image.tobytes())
    return digest.hexdigest()[:12]


def training_scene(seed: int, index: int) -> Scene:
    """The scene of training picture `index`; never one of a held-out composition."""
    return Scene.random(seed * 1_000_000_000 + index)


def render_shards(
    folder: Path,
    scene_of: Callable[[int], Scene],
    count: int,
    size: int,
    progress: Progress,
    stop: StopRequest,
) -> bool:
    """Render `scene_of(i)` for i in 0..`count` into `folder`, shard by shard; True when all are there."""
    progress.start("render", count)
    for path, indices in _shards(folder, count):
        if not path.exists():
            shard = np.empty((len(indices), size, size, 3), np.uint8)
            for row, index in enumerate(indices):
                if stop:
                    return False
                shard[row] = render(scene_of(index), size).image
                progress.advance()
            with replacing(path) as temporary:
                np.save(temporary, shard)
        else:
            progress.advance(len(indices))
    return True


def _shards(folder: Path, count: int) -> list[tuple[Path, range]]:
    """File and picture indices of every shard; the last may be a short one."""
    spans = [range(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]
    return [(folder / f"{span.start:07d}-{span.stop:07d}.npy", span) for span in spans]


class Pictures:
    """The first rendered pictures of a folder as one array-like, read from disk on demand.

    `pictures[indices]` gives (n, H, W, 3) uint8 for an integer array of indices.
    """

    def __init__(self, shards: list[np.ndarray], count: int) -> None:
        self._shards, self._count = shards, count
        self.size = shards[0].shape[1]

    @classmethod
    def open(cls, folder: Path, count: int) -> "Pictures":
        """Pictures that `render_shards` made."""
        return cls([np.load(path, mmap_mode="r") for path, _ in _shards(folder, count)], count)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self._shards[i // SHARD][i % SHARD] for i in indices.tolist()])

    def first(self, count: int) -> "Pictures":
        """Only the first `count` of them."""
        return Pictures(self._shards, min(count, self._count))


def captions_of(index: int, seed: int, count: int) -> list[str]:
    """`count` captions of training picture `index`, the same every time."""
    rng = np.random.default_rng([seed, index])
    scene = training_scene(seed, index)
    return [caption(scene, rng) for _ in range(count)]
