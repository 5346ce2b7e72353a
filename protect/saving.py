"""Protected files: written whole or not at all, and held to the budget by reading them again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modalities.core.files import fingerprint, replacing
from modalities.core.media import Unusable
from protect import picture as pictures
from protect.picture import Picture
from protect.recipe import Output

# Corrections of a JPEG at one quality.
CORRECTIONS = 12
# Share of the budget that a block keeps at least, all but a few of them, before the quality is raised.
LEFT, FEW = 0.75, 0.1
# What a level may differ by in arithmetic alone.
EXACT = 1e-6


@dataclass(frozen=True)
class Saved:
    """A protected file, as it was found when it was read again.

    Attributes:
        path: of the file.
        digest: SHA-256 of its bytes.
        largest, mean: change of its colour values in levels of 0..255.
        psnr: of it against the photo in dB.
        quality: of a JPEG file.
    """

    path: Path
    digest: str
    largest: float
    mean: float
    psnr: float
    quality: int | None


def save(
    photo: Picture, delta: NDArray[np.int16], reach: NDArray[np.float32], path: Path, kind: str, output: Output
) -> Saved:
    """Write the photo with whole levels added to it.

    Args:
        photo: the untouched one.
        delta: `(1 or 3, H, W)`, upright.
        reach: largest change of each pixel in levels, `(H, W)`.
        path: of the file to write.
        kind: its format.
        output: quality of a JPEG file, raised where the budget asks for it, and what becomes of metadata.

    Raises:
        Unusable: as JPEG it cannot be kept inside so small a budget, or the file, read again, is over the budget or not
            the photo any more; nothing is left of it.
    """
    used = None
    try:
        if kind == "JPEG":
            content, used = _as_jpeg(photo, delta, reach, output)
        else:
            content = pictures.encoded(photo, photo.changed(delta), kind, place=not output.strip_gps)
    except ValueError as error:
        raise Unusable(f"cannot be written as {kind} ({error})") from error
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        changes = _verified(photo, pictures.read(temporary), reach)
    spread = float((changes**2).mean())
    psnr = 10 * math.log10(255**2 / spread) if spread else math.inf
    return Saved(path, fingerprint(path), float(changes.max()), float(changes.mean()), psnr, used)


def _verified(photo: Picture, again: Picture, reach: NDArray[np.float32]) -> NDArray[np.float64]:
    """The changes in levels `(H, W, C)` of a file that was read again."""
    if again.size != photo.size or again.orientation != photo.orientation:
        raise Unusable("comes out in another size or orientation; choose another output.format")
    if photo.alpha is not None and (again.alpha is None or not np.array_equal(again.alpha, photo.alpha)):
        raise Unusable("comes out with another alpha channel; choose another output.format")
    changes = photo.distance(again)
    if (changes > reach[:, :, None] + EXACT).any():
        raise Unusable(f"comes out {changes.max():.2f} levels from the photo, which is more than was asked for")
    return changes


def _as_jpeg(photo: Picture, delta: NDArray[np.int16], reach: NDArray[np.float32], output: Output) -> tuple[bytes, int]:
    """A JPEG whose decoded pixels are inside the budget.

    Its own rounding adds to the change, so a block of 8x8 pixels that goes too far is given as much less room; where
    that would cost more than a share of the budget, the quality is raised instead, while it can be.
    """
    limit, quality = reach[None].astype(np.float64), output.quality
    while True:
        room = limit
        for _ in range(CORRECTIONS):
            values = photo.changed(np.rint(np.clip(delta, -room, room)).astype(np.int16))
            content = pictures.encoded(photo, values, "JPEG", quality, place=not output.strip_gps)
            excess = np.abs(_decoded(content) - np.moveaxis(photo.values.astype(np.float64), 2, 0)) - limit
            if excess.max() <= EXACT:
                return content, quality
            room = np.maximum(room - _by_block(excess), 0)
            if quality < 100 and (room < LEFT * limit).mean() > FEW:
                break
        if quality == 100:
            break
        quality += math.ceil((100 - quality) / 2)
    raise Unusable(f"cannot be kept within {reach.max():g} levels as JPEG; add --set output.format=png")


def _decoded(content: bytes) -> NDArray[np.float64]:
    """Colour values `(C, H, W)` of an encoded file, upright."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(content)
        file.flush()
        return np.moveaxis(pictures.read(Path(file.name)).values.astype(np.float64), 2, 0)


def _by_block(excess: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest excess in every block of 8x8 pixels in whole levels, 0 where none goes too far; `(1, H, W)`."""
    worst = np.where(excess > EXACT, np.ceil(excess - EXACT), 0).max(0)
    height, width = worst.shape
    padded = np.pad(worst, ((0, -height % 8), (0, -width % 8)))
    blocks = padded.reshape(padded.shape[0] // 8, 8, -1, 8).max((1, 3))
    return np.repeat(np.repeat(blocks, 8, 0), 8, 1)[None, :height, :width]
