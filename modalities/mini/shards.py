"""Rendered training pictures on disk, in shards that survive a kill, and their captions."""

import hashlib
import multiprocessing
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modalities.core.files import replacing
from modalities.core.progress import Progress, StopRequest
from modalities.mini.captions import NAMED_VIEWS, caption, clip_caption
from modalities.mini.motion import FRAMES, Clip
from modalities.mini.world import Scene, render

SHARD = 4000
# Pictures that are rendered between two looks at the progress.
_PART = 50
# Where the seeds of the second ring and of clips begin.
_VARIED, _CLIPS = 500_000_000, 700_000_000


def fingerprint(size: int, scene_of: Callable[[int], Scene] = Scene.random) -> str:
    """Short hash of what the renderer draws now, from a few sample scenes: changes when any picture would."""
    digest = hashlib.sha256()
    for seed in range(40):
        digest.update(render(scene_of(seed), size).image.tobytes())
    return digest.hexdigest()[:12]


def training_scene(seed: int, index: int) -> Scene:
    """The scene of training picture `index`; never one of a held-out composition."""
    return Scene.random(seed * 1_000_000_000 + index)


def varied_scene(seed: int, index: int) -> Scene:
    """The scene of training picture `index` of the second ring."""
    return Scene.varied(seed * 1_000_000_000 + _VARIED + index)


def training_clip(seed: int, index: int) -> Clip:
    """Training clip `index`."""
    return Clip.random(seed * 1_000_000_000 + _CLIPS + index)


def frame_scene(seed: int, index: int) -> Scene:
    """The scene of frame `index`, counted through all training clips."""
    return training_clip(seed, index // FRAMES).scenes()[index % FRAMES]


@dataclass(frozen=True)
class Rendering:
    """Pictures of `scene_of(i)` for i in 0..`count`, rendered into `folder` shard by shard."""

    folder: Path
    scene_of: Callable[[int], Scene]
    count: int
    size: int

    def run(self, processes: int, progress: Progress, stop: StopRequest) -> bool:
        """Render what is not there yet; True when all of it is."""
        missing = [(path, indices) for path, indices in _shards(self.folder, self.count) if not path.exists()]
        progress.start("render", self.count, done=self.count - sum(len(indices) for _, indices in missing))
        with _workers(processes if missing else 1) as spread:
            for path, indices in missing:
                parts: list[np.ndarray] = []
                for part in spread(self._part, [indices[i : i + _PART] for i in range(0, len(indices), _PART)]):
                    if stop:
                        return False
                    parts.append(part)
                    progress.advance(len(part))
                with replacing(path) as temporary:
                    np.save(temporary, np.concatenate(parts))
        return True

    def _part(self, indices: range) -> np.ndarray:
        return np.stack([render(self.scene_of(index), self.size).image for index in indices])


@contextmanager
def _workers(processes: int) -> Generator[Callable[..., Iterable[np.ndarray]]]:
    """A `map` over so many processes."""
    if processes == 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield pool.imap


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


def captions_of(index: int, seed: int, count: int, named_views: float = NAMED_VIEWS) -> list[str]:
    """`count` captions of training picture `index`, the same every time."""
    rng = np.random.default_rng([seed, index])
    scene = training_scene(seed, index)
    return [caption(scene, rng, named_views=named_views) for _ in range(count)]


def varied_captions_of(index: int, seed: int, count: int) -> list[str]:
    """The same for `varied_scene`; views are named as often as what it varies."""
    rng = np.random.default_rng([seed, _VARIED + index])
    scene = varied_scene(seed, index)
    return [caption(scene, rng, named_views=0.85) for _ in range(count)]


def clip_captions_of(index: int, seed: int, count: int) -> list[str]:
    """The same for `training_clip`."""
    rng = np.random.default_rng([seed, _CLIPS + index])
    clip = training_clip(seed, index)
    return [clip_caption(clip, rng) for _ in range(count)]
