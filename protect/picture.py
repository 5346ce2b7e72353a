"""A photo as its file has it, and the same file again with other pixels: depth, alpha, orientation, metadata stay.

Levels are 0..255 whatever the file's depth: a 16-bit value counts 257 to a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from modalities.core.media import EXIF_ORIENTATION, LARGEST_PIXELS, UNREADABLE, Unusable, allow_heic
from protect import containers, deep_tiff

SMALLEST_SIDE = 64
# What each format can hold without loss, or nearly so.
KEPT = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "PPM": ".ppm"}
# Their coding would add more than the budget, or they have too few colours: these are read, and become PNG.
BECOME_PNG = {"HEIF", "AVIF", "GIF"}
REFUSED_MODES = {
    "CMYK": "is CMYK; convert it to RGB with its profile first",
    "LAB": "is in Lab colours; convert it to RGB first",
    "HSV": "is in HSV colours; convert it to RGB first",
    "YCbCr": "is in YCbCr colours; convert it to RGB first",
    "F": "has floating-point pixels; convert it to 16 bits first",
    "I": "has 32-bit pixels; convert it to 16 bits first",
}


@dataclass(frozen=True)
class Picture:
    """A photo, upright.

    Attributes:
        path: its file.
        format: as Pillow names it.
        values: colour values `(H, W, 1 or 3)`, upright, uint8 or uint16.
        alpha: `(H, W)` of the same type, or None.
        orientation: of EXIF, 1..8: how the file's pixels must be turned to stand upright.
        palette: whether the file's colours stood in a palette (or it had 1 bit), which changed pixels cannot keep.
        remarks: what is odd about it.
    """

    path: Path
    format: str
    values: NDArray[Any]
    alpha: NDArray[Any] | None
    orientation: int
    palette: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def per_level(self) -> int:
        """Steps of the file's values in a level of 0..255."""
        return 257 if self.values.dtype == np.uint16 else 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def levels(self) -> NDArray[np.float32]:
        """Colour values as levels of 0..255, `(1 or 3, H, W)`."""
        return np.moveaxis(self.values, 2, 0).astype(np.float32) / self.per_level

    def on_white(self) -> NDArray[np.float32]:
        """What a viewer sees, in levels, `(3, H, W)`."""
        levels = self.levels
        if self.alpha is not None:
            cover = self.alpha.astype(np.float32) / np.iinfo(self.alpha.dtype).max
            levels = levels * cover + 255 * (1 - cover)
        return np.ascontiguousarray(np.broadcast_to(levels, (3, *self.size)))

    def visible(self) -> NDArray[np.bool_]:
        """`(H, W)`, False where a pixel is fully transparent."""
        return np.ones(self.size, np.bool_) if self.alpha is None else self.alpha > 0

    def changed(self, delta: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """The file's values after adding whole levels `(1 or 3, H, W)`."""
        top = int(np.iinfo(self.values.dtype).max)
        moved = self.values.astype(np.int64) + np.moveaxis(delta, 0, 2).astype(np.int64) * self.per_level
        return np.clip(moved, 0, top).astype(self.values.dtype)

    def distance(self, other: Picture) -> NDArray[np.float64]:
        """How far the colour values of the same photo, read again, are from these, in levels `(H, W, C)`."""
        theirs = other.values
        if theirs.shape[2] != self.values.shape[2]:
            theirs = np.broadcast_to(theirs, self.values.shape) if theirs.shape[2] == 1 else theirs
        # Over a common denominator: whole levels stay whole.
        gap = theirs.astype(np.int64) * self.per_level - self.values.astype(np.int64) * other.per_level
        return np.abs(gap) / (self.per_level * other.per_level)


def read(path: Path) -> Picture:
    """Read a photo whole.

    Raises:
        Unusable: it is no picture, is damaged, or is of a kind whose pixels could not be written back.
    """
    previous, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    allow_heic()
    try:
        if path.stat().st_size == 0:
            raise Unusable("is empty (0 bytes)")
        with Image.open(path) as image:
            _require_kept(image)
            values, alpha, palette, remarks = _pixels(image, path)
            # Asked after loading: Pillow turns the pixels of a TIFF upright itself, and drops the tag.
            orientation = int(image.getexif().get(EXIF_ORIENTATION, 1))
            kind = "JPEG" if image.format == "MPO" else str(image.format)
    except UnidentifiedImageError as error:
        raise Unusable(_unread(path)) from error
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror})" if error.strerror else f"is damaged ({error})") from error
    except UNREADABLE as error:
        raise Unusable(f"is damaged ({error})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = previous
    orientation = orientation if 1 <= orientation <= 8 else 1
    upright = _turned(values, orientation)
    return Picture(
        path,
        kind,
        upright,
        None if alpha is None else _turned(alpha, orientation),
        orientation,
        palette,
        tuple(remarks),
    )


def encoded(picture: Picture, values: NDArray[Any], kind: str, quality: int = 95, *, place: bool = True) -> bytes:
    """The photo's file with other colour values, upright as `picture.values`, in format `kind`.

    place: whether the metadata keeps where the photo was taken.
    """
    stored = _stored(values, picture.orientation)
    alpha = None if picture.alpha is None else _stored(picture.alpha, picture.orientation)
    if kind == "JPEG":
        return containers.jpeg(picture.path, stored, quality, place=place)
    if kind == "PNG":
        return containers.png(picture.path, stored, alpha, place=place)
    return containers.other(picture.path, stored, alpha, kind, place=place)


def _require_kept(image: Image.Image) -> None:
    width, height = image.size
    if width * height > LARGEST_PIXELS:
        raise Unusable(f"is too large ({width}x{height} pixels; at most {LARGEST_PIXELS // 10**6} megapixels)")
    if image.format not in KEPT.keys() | BECOME_PNG:
        raise Unusable(f"is {image.format}, which is not written; convert it to PNG or JPEG first")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise Unusable("is animated or has several pages; save the one picture that is to be protected")
    if image.mode in REFUSED_MODES:
        raise Unusable(REFUSED_MODES[image.mode])


def _unread(path: Path) -> str:
    """Why Pillow knows no such picture, and what to do."""
    kind = path.suffix.lower()
    if kind in (".heic", ".heif"):
        return "is HEIC: install pillow-heif (pip install 'pcs-cli[heic]'), or convert it to PNG or JPEG first"
    if kind in (".tif", ".tiff"):
        return "is not a TIFF of a kind that is read; convert it to RGB of 8 or 16 bits first"
    return "is not a picture, or of a format that cannot be read"


def _holds_more(image: Image.Image, path: Path) -> bool:
    """Whether there is more in the file than the one picture."""
    if image.format == "HEIF":
        return bool(image.info.get("aux") or image.info.get("depth_images"))
    return image.format == "MPO" or (image.format == "JPEG" and b"hdrgm" in path.read_bytes()[:65536])


def _is_deep_ppm(image: Image.Image) -> bool:
    """Whether a PPM has more than 8 bits a channel, of which Pillow would drop the rest."""
    return image.format == "PPM" and any(isinstance(one.args, tuple) and one.args[-1] > 255 for one in image.tile)


def _pixels(image: Image.Image, path: Path) -> tuple[NDArray[Any], NDArray[Any] | None, bool, list[str]]:
    """Colour values and alpha as stored, whether there was a palette, and what is to be said."""
    remarks: list[str] = []
    if _holds_more(image, path):
        remarks.append("holds a second picture or a gain map, which is left out")
    if image.format in BECOME_PNG:
        remarks.append(f"is {image.format}, which is written as PNG")
    if image.info.get("bit_depth", 8) > 8:
        remarks.append("has more than 8 bits a channel, of which 8 are kept")
    if image.format == "PNG" and containers.is_deep(path):
        return _split(containers.read_deep_png(path))
    if deep_tiff.is_deep(image):
        return _split(deep_tiff.read(image, path))
    if image.mode.startswith("I;16") or _is_deep_ppm(image):
        raise Unusable("has 16 bits in a form that cannot be written back; convert it to a 16-bit PNG first")
    image.load()
    palette = image.mode in ("P", "PA", "1")
    if palette:
        remarks.append("has a palette or 1 bit, which changed pixels cannot keep: it becomes full colour or grey")
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    is_grey = image.mode in ("L", "LA", "1")
    plain = image.convert(("LA" if is_grey else "RGBA") if has_alpha else ("L" if is_grey else "RGB"))
    array = np.asarray(plain)
    values, alpha, _, _ = _split(array if array.ndim == 3 else array[:, :, None])
    return values, alpha, palette, remarks


def _split(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None, bool, list[str]]:
    """Colours and alpha of `(H, W, 1..4)`."""
    has_alpha = array.shape[2] in (2, 4)
    return (array[:, :, :-1], array[:, :, -1], False, []) if has_alpha else (array, None, False, [])


def _turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels as they are shown."""
    turns = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    return np.ascontiguousarray(turns[orientation](array) if orientation in turns else array)


def _stored(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels as the file has them: a quarter turn is undone by the other one, everything else by itself."""
    return _turned(array, {6: 8, 8: 6}.get(orientation, orientation))
