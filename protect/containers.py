"""Files of other pixels with everything else of the photo's own file: the parts of PNG, JPEG, WebP, TIFF and BMP."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from modalities.core.media import Unusable
from protect import deep_tiff

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What PNG says beside its pixels; the rest describes a palette or another depth.
KEPT_CHUNKS = {b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCv", b"cLLi", b"pHYs", b"eXIf", b"tIME"}
TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
KEPT_CHUNKS |= TEXTS
# As ImageMagick writes them.
RAW_PROFILES = {b"Raw profile type exif", b"Raw profile type APP1", b"Raw profile type xmp"}
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
GPS = 0x8825
LOSSLESS_TIFF = {"raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate"}


def without_place(tags: bytes) -> bytes:
    """EXIF as it is in a file, `Exif\0\0` in front or not, without the place where the photo was taken."""
    head = b"Exif\0\0" if tags.startswith(b"Exif\0\0") else b""
    exif = Image.Exif()
    exif.load(tags)
    if GPS not in exif:
        return tags
    del exif[GPS]
    return head + exif.tobytes().removeprefix(b"Exif\0\0")


def tells_place(text: bytes) -> bool:
    """Whether XMP has a place in it; it is then dropped whole."""
    return b"GPSL" in text or b"exif:GPS" in text


def _text_tells_place(name: bytes, body: bytes) -> bool:
    """The same of a text chunk of a PNG, which may be compressed, or hold EXIF in hexadecimal digits."""
    keyword, _, rest = body.partition(b"\0")
    if keyword in RAW_PROFILES:
        return True
    if name == b"iTXt" and rest[:1] == b"\1":
        rest = rest[2:].split(b"\0", 2)[-1]
    elif name == b"zTXt":
        rest = rest[1:]
    else:
        return tells_place(body)
    try:
        return tells_place(zlib.decompress(rest))
    except zlib.error:
        return True


def png(source: Path, values: NDArray[Any], alpha: NDArray[Any] | None, *, place: bool = True) -> bytes:
    """A PNG of stored colour values `(H, W, 1 or 3)` and alpha, 8 or 16 bits, with what the source says beside."""
    array = values if alpha is None else np.concatenate([values, alpha[:, :, None]], 2)
    made = (
        _deep_png(array) if array.dtype == np.uint16 else _plain(array, "PNG", **_as_parameters(source, "PNG", place))
    )
    if source.read_bytes()[:8] != PNG_SIGNATURE:
        return made
    parts = [(name, body) for name, body in _chunks(source.read_bytes()) if name in KEPT_CHUNKS]
    if not place:
        parts = [
            (name, without_place(body) if name == b"eXIf" else body)
            for name, body in parts
            if not (name in TEXTS and _text_tells_place(name, body))
        ]
    kept = b"".join(_chunk(name, body) for name, body in parts)
    header = len(PNG_SIGNATURE) + 25
    return made[:header] + kept + made[header:]


def jpeg(source: Path, values: NDArray[Any], quality: int, *, place: bool = True) -> bytes:
    """A JPEG without chroma subsampling, with every segment of the source but a second picture's."""
    content = source.read_bytes()
    if content[:2] != b"\xff\xd8":
        return _plain(values, "JPEG", quality=quality, subsampling=0, **_as_parameters(source, "JPEG", place))
    with Image.open(source) as image:
        density = {"dpi": image.info["dpi"]} if image.info.get("dpi") else {}
    made = _plain(values, "JPEG", quality=quality, subsampling=0, optimize=True, **density)
    kept = b"".join(_kept_segments(content, place))
    end = 4 + struct.unpack(">H", made[4:6])[0]
    return made[:end] + kept + made[end:]


def other(source: Path, values: NDArray[Any], alpha: NDArray[Any] | None, kind: str, *, place: bool = True) -> bytes:
    """A file of one of the other formats that lose nothing."""
    if kind == "TIFF" and values.dtype == np.uint16:
        return deep_tiff.write(source, values if alpha is None else np.dstack([values, alpha]), place=place)
    array = values if alpha is None else np.concatenate([values, alpha[:, :, None]], 2)
    parameters: dict[str, Any] = _as_parameters(source, kind, place)
    if kind == "WEBP":
        parameters |= {"lossless": True, "exact": True, "quality": 80}
    return _plain(array, kind, **parameters)


def _plain(array: NDArray[Any], kind: str, **parameters: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(data, kind, **parameters)
    return data.getvalue()


def _as_parameters(source: Path, kind: str, place: bool) -> dict[str, Any]:
    """EXIF, profile, XMP and resolution as Pillow's writers take them; without `place` not where it was taken."""
    with Image.open(source) as image:
        told = image.info
        if image.format == "TIFF":
            # Its pixels were turned upright, so its tag must go.
            image.load()
        tags = image.getexif().tobytes() if image.getexif() else b""
        found: dict[str, Any] = {"exif": tags if place else without_place(tags)} if tags else {}
        if kind == "TIFF" and image.format == "TIFF":
            # Pillow takes the tags of a TIFF, among them XMP, from `tiffinfo`.
            own = {number: image.tag_v2[number] for number in (270, 271, 272, 305, 306, 315, 700, 33432, 33723)
                    if number in image.tag_v2}  # fmt: skip
            compression = str(told.get("compression", "raw"))
            found = {"tiffinfo": own, "compression": compression if compression in LOSSLESS_TIFF else "tiff_lzw"}
            if not place and tells_place(bytes(own.get(700, b""))):
                del own[700]
        xmp = told.get("xmp")
        if xmp and (place or not tells_place(xmp)) and kind in ("WEBP", "JPEG"):
            found["xmp"] = xmp
        found |= {name: told[name] for name in ("icc_profile", "dpi") if told.get(name)}
        if kind == "PNG" and image.format == "PNG":
            return {"icc_profile": None}
        if kind == "PNG" and xmp and (place or not tells_place(xmp)):
            found["pnginfo"] = PngInfo()
            found["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        return found


# -- PNG -----------------------------------------------------------------------------------------------------


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(PNG_SIGNATURE)
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        yield content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        place += length + 12


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def is_deep(path: Path) -> bool:
    """Whether a PNG has 16 bits a channel; Pillow would read most of them as 8."""
    with path.open("rb") as file:
        head = file.read(26)
    return len(head) == 26 and head[24] == 16


def read_deep_png(path: Path) -> NDArray[np.uint16]:
    """Pixels `(H, W, channels)` of a PNG with 16 bits a channel.

    Raises:
        Unusable: it is interlaced, cut short, or has colours that are transparent by name.
    """
    content = path.read_bytes()
    parts = list(_chunks(content))
    names = [name for name, _ in parts]
    width, height, _, colour, _, _, interlace = struct.unpack(">IIBBBBB", parts[0][1])
    if interlace or b"tRNS" in names:
        raise Unusable("is a 16-bit PNG with interlacing or one transparent colour; save it without")
    try:
        raw = zlib.decompress(b"".join(body for name, body in parts if name == b"IDAT"))
    except zlib.error as error:
        raise Unusable(f"is damaged ({error})") from error
    channels = CHANNELS[colour]
    stride = width * channels * 2
    if len(raw) != height * (stride + 1):
        raise Unusable("is damaged (its rows are cut short)")
    rows = np.frombuffer(raw, np.uint8).reshape(height, stride + 1)
    plain = _unfiltered(rows[:, 0], rows[:, 1:], channels * 2)
    return plain.reshape(height, width * channels, 2).view(">u2").reshape(height, width, channels).astype(np.uint16)


def _unfiltered(kinds: NDArray[np.uint8], rows: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Undo the five filters of PNG (RFC 2083, section 6), row by row."""
    made = np.zeros_like(rows)
    above = np.zeros(rows.shape[1], np.uint8)
    for number, (kind, row) in enumerate(zip(kinds, rows, strict=True)):
        if kind == 1:
            line = np.add.accumulate(row.reshape(-1, step), 0, dtype=np.uint8).reshape(-1)
        elif kind in (0, 2):
            line = row + above if kind == 2 else row
        else:
            line = _predicted(row, above, step, is_paeth=kind == 4)
        made[number] = above = line
    return made


def _predicted(row: NDArray[np.uint8], above: NDArray[np.uint8], step: int, *, is_paeth: bool) -> NDArray[np.uint8]:
    """A row whose every pixel stands on the one before: Average or Paeth."""
    old, line = above.astype(int).reshape(-1, step), np.zeros((len(row) // step, step), int)
    left = corner = np.zeros(step, int)
    for number, values in enumerate(row.reshape(-1, step).astype(int)):
        up = old[number]
        if is_paeth:
            guess = left + up - corner
            gaps = np.abs(guess - left), np.abs(guess - up), np.abs(guess - corner)
            near = np.where((gaps[0] <= gaps[1]) & (gaps[0] <= gaps[2]), left, np.where(gaps[1] <= gaps[2], up, corner))
        else:
            near = (left + up) // 2
        left = line[number] = (values + near) % 256
        corner = up
    return line.reshape(-1).astype(np.uint8)


def _deep_png(array: NDArray[np.uint16]) -> bytes:
    """A PNG with 16 bits a channel, every row as its difference from the one above."""
    height, width, channels = array.shape
    colour = {count: kind for kind, count in CHANNELS.items()}[channels]
    rows = np.ascontiguousarray(array.astype(">u2")).view(np.uint8).reshape(height, -1)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    lines = np.hstack([np.full((height, 1), 2, np.uint8), rows - above])
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")
    return PNG_SIGNATURE + b"".join(_chunk(name, body) for name, body in parts)


# -- JPEG ----------------------------------------------------------------------------------------------------


def _kept_segments(content: bytes, is_place_kept: bool) -> Iterator[bytes]:
    """EXIF, profile, XMP, IPTC and comments; not what describes the coding or points to a second picture."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        kind = content[place + 1]
        (length,) = struct.unpack(">H", content[place + 2 : place + 4])
        body = content[place : place + 2 + length]
        # APP0 is JFIF's own, APP14 Adobe's colour coding, APP2 with MPF the index of further pictures.
        if kind == 0xFE or (0xE1 <= kind <= 0xEF and kind != 0xEE and body[4:8] != b"MPF\0"):
            is_exif = kind == 0xE1 and body[4:10] == b"Exif\0\0"
            if is_exif and not is_place_kept:
                tags = without_place(body[4:])
                yield body[:2] + struct.pack(">H", len(tags) + 2) + tags
            elif is_place_kept or not tells_place(body):
                yield body
        place += 2 + length
