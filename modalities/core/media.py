"""Pictures on disk and pixels in memory: the only module that knows 0..255.

Inside pcs a picture is float32 in [0, 1], shape (3, H, W), RGB, upright. Files may be of any mode, depth, size or
orientation that Pillow reads; they are never modified.
"""

from __future__ import annotations

import glob
import hashlib
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from modalities.core.errors import PcsError
from modalities.core.files import replacing

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".gif",
        ".avif",
        ".heic",
        ".heif",
        ".jfif",
        ".ppm",
    }
)
SMALLEST_SIDE = 16
LARGEST_PIXELS = 250_000_000
EXIF_ORIENTATION = 0x0112
_LIMIT = threading.Lock()
# What Pillow raises at damaged files.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, TypeError, struct.error)


class Unusable(Exception):
    """Why one picture cannot be used, in a few words."""


@dataclass(frozen=True)
class Photo:
    """One usable picture.

    Attributes:
        path: its file.
        width, height: pixels, upright.
        digest: SHA-256 of the file's bytes.
        fingerprint: 64-bit gradient hash; near-duplicates differ in few bits.
        sharpness: variance of the Laplacian (levels squared, at 256 pixels a side); below about 15 is blurred.
        remarks: what is odd about it.
    """

    path: Path
    width: int
    height: int
    digest: str
    fingerprint: int
    sharpness: float
    remarks: tuple[str, ...] = ()

    def open(self) -> Image.Image:
        """Return the picture, upright, mode RGB, 8 bits."""
        return upright_rgb(self.path)[0]


def read_photo(path: Path) -> Photo:
    """Look at one file.

    Raises:
        Unusable: it is not a picture, is damaged, or is too small or too large to use.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror})") from error
    if not content:
        raise Unusable("is empty (0 bytes)")
    image, remarks = upright_rgb(path)
    return Photo(
        path,
        image.width,
        image.height,
        hashlib.sha256(content).hexdigest(),
        _difference_hash(image),
        _sharpness(image),
        tuple(remarks),
    )


MaskSource = Literal["attention"] | Path | None
"""Where masks are: found by the base's own attention, in a folder, or None, in the alpha channels of the photos."""


def read_mask(photo: Photo, folder: Path | None) -> Image.Image:
    """The mask of a photo, white where the subject is, upright, of the photo's size.

    Args:
        photo: whose mask.
        folder: of files named like the photos; None takes the photo's own alpha channel.

    Raises:
        PcsError: there is none, or it is of another size.
    """
    if folder is None:
        with Image.open(photo.path) as opened:
            if "A" not in opened.getbands() and "transparency" not in opened.info:
                raise PcsError(f"{photo.path}: has no alpha channel to take as its mask; give a folder of masks.")
            return ImageOps.exif_transpose(opened).convert("RGBA").getchannel("A")
    if not folder.is_dir():
        raise PcsError(f"{folder}: there is no such folder of masks.")
    found = sorted(path for path in folder.glob(f"{glob.escape(photo.path.stem)}.*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise PcsError(f"{folder}: has no mask for {photo.path.name}; name it {photo.path.stem}.png.")
    try:
        mask = upright_rgb(found[0])[0].convert("L")
    except Unusable as reason:
        raise PcsError(f"{found[0]}: {reason}.") from None
    if mask.size != (photo.width, photo.height):
        sizes = f"{mask.width}x{mask.height} pixels, its photo {photo.width}x{photo.height}"
        raise PcsError(f"{found[0]}: is {sizes}; a mask must be as large as its photo.")
    return mask


def upright_rgb(path: Path) -> tuple[Image.Image, list[str]]:
    """A picture of any mode, 8-bit RGB, standing as its EXIF orientation says, and what was done to it.

    Raises:
        Unusable: it is no picture, damaged, too small or too large.
    """
    remarks: list[str] = []
    allow_heic()
    try:
        with _opened(path) as opened:
            _require_usable_size(opened.size)
            if getattr(opened, "n_frames", 1) > 1:
                remarks.append("is animated: only its first frame is used")
            if opened.getexif().get(EXIF_ORIENTATION, 1) != 1:
                remarks.append("is turned upright as its EXIF orientation says")
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise Unusable("is not a picture, or of a format that cannot be read") from error
    except UNREADABLE as error:
        raise Unusable(f"is damaged ({error})") from error
    return _rgb(image, remarks), remarks


def _opened(path: Path) -> Image.Image:
    """A picture of any size, not yet decoded."""
    # Pillow's own limit is one for all threads, and looked at when a picture is opened.
    with _LIMIT:
        previous, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = previous


def _require_usable_size(size: tuple[int, int]) -> None:
    width, height = size
    if min(size) < SMALLEST_SIDE:
        raise Unusable(f"is too small ({width}x{height} pixels; at least {SMALLEST_SIDE} a side)")
    if width * height > LARGEST_PIXELS:
        raise Unusable(f"is too large ({width}x{height} pixels; at most {LARGEST_PIXELS // 10**6} megapixels)")


def _rgb(image: Image.Image, remarks: list[str]) -> Image.Image:
    """Convert any mode to 8-bit RGB as a viewer would show it."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        remarks.append("has more than 8 bits a channel: scaled to 8")
        return _from_deep(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        remarks.append("has transparency: shown on white")
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    if image.mode == "CMYK":
        remarks.append("is CMYK: converted to RGB")
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """Scale a 16-bit, 32-bit or float grey picture to 8 bits; Pillow alone would clip it to white."""
    values = np.asarray(image).astype(np.float64)
    # 32-bit integer files hold 16-bit photos in practice; float files hold [0, 1] or 0..255.
    top = 65535.0 if image.mode != "F" else (1.0 if values.max(initial=0) <= 1 else 255.0)
    return Image.fromarray((np.clip(values / top, 0, 1) * 255 + 0.5).astype(np.uint8))


def allow_heic() -> None:
    """Let Pillow open HEIC, where its plugin is installed."""
    if ".heic" in Image.registered_extensions():
        return
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore
    except ImportError:
        return
    register_heif_opener()


def square(image: Image.Image, side: int, *, mirrored: bool = False) -> Float[Tensor, "3 side side"]:
    """Resize the shorter side to `side` (Lanczos), crop the centre square, return pixels in [0, 1].

    The rounding is torchvision's `Resize` and `CenterCrop`, which every published script uses.
    """
    width, height = image.size
    short, long = sorted(image.size)
    other = int(side * long / short)
    size = (side, other) if width <= height else (other, side)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = round((size[0] - side) / 2.0), round((size[1] - side) / 2.0)
    image = image.crop((left, top, left + side, top + side))
    return to_pixels(ImageOps.mirror(image) if mirrored else image)


def to_pixels(image: Image.Image) -> Float[Tensor, "3 h w"]:
    """Return an RGB picture as float32 pixels in [0, 1]."""
    import torch

    array = np.array(image.convert("RGB"), dtype=np.uint8)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous().float().div(255)


def to_image(pixels: Float[Tensor, "3 h w"]) -> Image.Image:
    """Return pixels in [0, 1] (clipped) as an 8-bit RGB picture, rounded to the nearest level."""
    levels = (pixels.detach().float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def save_png(image: Image.Image, path: Path, text: dict[str, str] | None = None) -> None:
    """Write a PNG atomically, with `text` as its tEXt chunks; the same picture always gives the same bytes."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for key, value in (text or {}).items():
        chunks.add_itxt(key, value)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)


def save_gif(frames: list[Image.Image], path: Path, frames_per_second: float = 8.0) -> None:
    """Write an animated GIF that loops, atomically."""
    with replacing(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 / frames_per_second),
            loop=0,
        )


def _difference_hash(image: Image.Image) -> int:
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (small[:, 1:] > small[:, :-1]).flatten()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _sharpness(image: Image.Image) -> float:
    grey: Any = np.asarray(image.convert("L").resize((256, 256), Image.Resampling.BICUBIC), dtype=np.float32)
    laplacian = -4 * grey[1:-1, 1:-1] + grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(laplacian.var())
