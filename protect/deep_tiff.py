"""TIFF with 16 bits a channel, which Pillow reads as 8 and does not write.

Pillow's decoders are still what unpacks it: they are shown the same rows as one grey channel, as many times as wide.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from modalities.core.media import Unusable

WIDTH, BITS, COMPRESSION, COLOUR, STRIPS, ORIENTATION, CHANNELS = 256, 258, 259, 262, 273, 274, 277
ROWS, LENGTHS, PLANES, PREDICTOR, TILE_WIDTH, EXTRA, KIND = 278, 279, 284, 317, 322, 338, 339
PLAIN, DEFLATED, DIFFERENCES = 1, 8, 2
# Camera, software, author, copyright, resolution, XMP, IPTC, Photoshop's, profile, EXIF and place.
KEPT = (270, 271, 272, 282, 283, 296, 305, 306, 315, 700, 33432, 33723, 34377, 34675, 34665, 34853)
PLACE, XMP = 34853, 700


def is_deep(image: Image.Image) -> bool:
    """Whether an open TIFF has more than 8 bits a channel."""
    return image.format == "TIFF" and max(_numbers(image, BITS, 8)) > 8


def read(image: Image.Image, path: Path) -> NDArray[np.uint16]:
    """Pixels `(H, W, channels)` of an open TIFF, as they are stored: not turned upright.

    Raises:
        Unusable: its numbers are no unsigned 16 bits, or its colours no grey or RGB side by side.
    """
    count = _numbers(image, CHANNELS, 1)[0]
    if {*_numbers(image, BITS, 8)} != {16} or {*_numbers(image, KIND, 1)} != {1}:
        raise Unusable("has more than 8 bits a channel, but no unsigned 16; convert it to 16 bits first")
    if _numbers(image, COLOUR, 1)[0] not in (1, 2) or count not in (1, 3, 4) or _numbers(image, PLANES, 1)[0] != 1:
        raise Unusable("has 16 bits in colours other than grey or RGB, pixel by pixel; convert it to RGB first")
    content = path.read_bytes()
    if content[:4] not in (b"II*\0", b"MM\0*"):
        raise Unusable("is a BigTIFF with 16 bits; save it as an ordinary TIFF first")
    with Image.open(io.BytesIO(_as_grey(content, count))) as grey:
        rows = np.array(grey, np.uint16)
    # Pillow tells the size of the picture when it stands upright.
    width = _numbers(image, WIDTH, 0)[0]
    array = rows.reshape(rows.shape[0], -1, count)[:, :width]
    if _numbers(image, PREDICTOR, 1)[0] != DIFFERENCES:
        return np.ascontiguousarray(array)
    wide = _numbers(image, TILE_WIDTH, width)[0]
    tiles = [array[:, start : start + wide] for start in range(0, width, wide)]
    return np.concatenate([np.cumsum(one, 1, dtype=np.uint16) for one in tiles], 1)


def write(source: Path, array: NDArray[np.uint16], *, place: bool = True) -> bytes:
    """A TIFF of pixels `(H, W, channels)` with what the source says beside, its orientation included.

    place: whether the metadata keeps where the photo was taken.
    """
    height, width, count = array.shape
    with Image.open(source) as image:
        tags = _described(image, place)
        packed, extra = _numbers(image, COMPRESSION, PLAIN)[0] != PLAIN, _numbers(image, EXTRA, 2)
    if packed:
        array = np.diff(array, axis=1, prepend=np.zeros_like(array[:, :1]))
    body = np.ascontiguousarray(array.astype("<u2")).tobytes()
    body = zlib.compress(body, 6) if packed else body
    tags[WIDTH], tags[WIDTH + 1], tags[BITS] = width, height, (16,) * count
    tags[COMPRESSION], tags[PREDICTOR] = (DEFLATED, DIFFERENCES) if packed else (PLAIN, 1)
    tags[COLOUR], tags[CHANNELS], tags[PLANES] = (2 if count > 2 else 1), count, 1
    tags[STRIPS], tags[ROWS], tags[LENGTHS] = (0,), height, (len(body),)
    if count == 4:
        tags[EXTRA] = extra
    data = io.BytesIO()
    data.write(tags.prefix + b"\x2a\0" + (8).to_bytes(4, "little"))
    data.write(tags.tobytes(8))
    data.write(body)
    return data.getvalue()


def _described(image: Image.Image, place: bool) -> Any:
    """The tags of an open picture that do not describe its pixels."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    own: Any = getattr(image, "tag_v2", {})
    tags[ORIENTATION] = own.get(ORIENTATION, 1)
    for number in KEPT:
        if number in own and (place or not (number == PLACE or (number == XMP and b"GPS" in bytes(own[number])))):
            is_folder = isinstance(own[number], int) and number in (34665, PLACE)
            tags[number] = image.getexif().get_ifd(number) if is_folder else own[number]
            tags.tagtype[number] = own.tagtype[number]
    return tags


def _numbers(image: Image.Image, tag: int, default: int) -> tuple[int, ...]:
    found = getattr(image, "tag_v2", {}).get(tag, default)
    return found if isinstance(found, tuple) else (found,)


def _as_grey(content: bytes, count: int) -> bytes:
    """The same file with its `count` channels side by side in one of grey, as they lie in every row."""
    order = "little" if content[:2] == b"II" else "big"
    changed = bytearray(content)
    start = int.from_bytes(content[4:8], order)
    for entry in range(start + 2, start + 2 + 12 * int.from_bytes(content[start : start + 2], order), 12):
        tag = int.from_bytes(content[entry : entry + 2], order)
        size = 2 if content[entry + 2 : entry + 4] == (3).to_bytes(2, order) else 4
        value = int.from_bytes(content[entry + 8 : entry + 8 + size], order)
        wanted = {WIDTH: value * count, TILE_WIDTH: value * count, COLOUR: 1, CHANNELS: 1, PREDICTOR: 1,
                  ORIENTATION: 1, BITS: 16, KIND: 1}.get(tag)  # fmt: skip
        if tag == EXTRA:
            # There is no alpha any more; a number without meaning takes its place in the order.
            changed[entry : entry + 2] = (EXTRA - 1).to_bytes(2, order)
        if wanted is None:
            continue
        # One number, which then stands in the entry itself.
        changed[entry + 2 : entry + 8] = (3 if size == 2 else 4).to_bytes(2, order) + (1).to_bytes(4, order)
        changed[entry + 8 : entry + 12] = wanted.to_bytes(size, order).ljust(4, b"\0")
    return bytes(changed)
