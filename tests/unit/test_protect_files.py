"""Whatever the file, its protected one is the same file with other pixels, none further away than the budget."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from modalities.core.errors import RunFailed
from modalities.core.media import Unusable
from protect import containers, picture
from protect.recipe import Output
from protect.saving import Saved, save

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'


def exif(orientation: int = 1) -> bytes:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F], tags[0x8825] = orientation, "a camera", {1: "N", 2: (52.0, 30.0, 1.0)}
    return tags.tobytes()


def noise_photo(mode: str, height: int = 72, width: int = 88, seed: int = 0) -> Image.Image:
    """Smooth colours with some grain, of a mode; alpha has clear and half-clear parts."""
    draw = np.random.default_rng(seed)
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    coarse = draw.integers(0, 256, (6, 6, channels), np.uint8)
    planes = [
        Image.fromarray(coarse[:, :, c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)
    ]
    array = np.stack([np.asarray(one) for one in planes], 2).astype(int)
    array = np.clip(array + draw.integers(-6, 7, array.shape), 0, 255).astype(np.uint8)
    if mode in ("LA", "RGBA"):
        array[: height // 3, :, -1] = 0
    return Image.fromarray(array[:, :, 0] if channels == 1 else array)


def random_delta(photo: picture.Picture, levels: int, seed: int = 1) -> np.ndarray:
    shape = (photo.values.shape[2], *photo.size)
    delta = np.random.default_rng(seed).integers(-levels, levels + 1, shape).astype(np.int16)
    return delta * photo.visible()


def written(
    photo: picture.Picture, path: Path, kind: str, levels: int = 8, quality: int = 95, *, strip_gps: bool = False
) -> Saved:
    reach = (levels * photo.visible()).astype(np.float32)
    return save(photo, random_delta(photo, levels), reach, path, kind, Output(quality=quality, strip_gps=strip_gps))


FORMATS: list[tuple[str, str, dict[str, Any]]] = [
    ("a.png", "RGB", {}),
    ("a.png", "RGBA", {}),
    ("a.png", "L", {}),
    ("a.png", "LA", {}),
    ("a.jpg", "RGB", {"quality": 90}),
    ("a.jpg", "RGB", {"quality": 60, "progressive": True}),
    ("a.jpg", "L", {"quality": 85}),
    ("a.webp", "RGB", {"lossless": True}),
    ("a.webp", "RGB", {"quality": 80}),
    ("a.webp", "RGBA", {"lossless": True}),
    ("a.tif", "RGB", {"compression": "tiff_lzw"}),
    ("a.tif", "L", {}),
    ("a.bmp", "RGB", {}),
]


@pytest.mark.parametrize(("name", "mode", "options"), FORMATS)
@pytest.mark.parametrize("levels", [1, 3, 8, 16])
def test_no_file_is_over_the_budget(name: str, mode: str, options: dict[str, Any], levels: int, tmp_path: Path) -> None:
    noise_photo(mode, seed=levels).save(tmp_path / name, **options)
    photo, target = picture.read(tmp_path / name), tmp_path / "out" / name
    try:
        saved = written(photo, target, photo.format, levels)
    except Unusable as reason:
        assert photo.format == "JPEG"
        assert levels < 3, reason
        assert not target.exists()
        return
    with Image.open(tmp_path / name) as before, Image.open(target) as after:
        gap = np.abs(np.asarray(after).astype(int) - np.asarray(before).astype(int))
        assert (before.mode, before.size, before.format) == (after.mode, after.size, after.format)
    assert gap.max() <= levels
    assert saved.largest == gap.max() > 0 or photo.alpha is not None


@pytest.mark.parametrize("seed", range(12))
def test_random_pictures_of_random_kinds_stay_inside(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    name, mode, options = FORMATS[int(draw.integers(len(FORMATS)))]
    height, width = (int(side) for side in draw.integers(64, 150, 2))
    levels, quality = int(draw.integers(3, 20)), int(draw.integers(50, 101))
    noise_photo(mode, height, width, seed).save(tmp_path / name, **options)
    photo = picture.read(tmp_path / name)
    assert written(photo, tmp_path / "out" / name, photo.format, levels, quality).largest <= levels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_what_is_upright_stays_upright_and_the_tag_stays(orientation: int, name: str, tmp_path: Path) -> None:
    noise_photo("RGB").save(tmp_path / name, exif=exif(orientation))
    photo = picture.read(tmp_path / name)
    with Image.open(tmp_path / name) as opened:
        assert np.array_equal(photo.values, np.asarray(ImageOps.exif_transpose(opened)))
    written(photo, tmp_path / "out" / name, photo.format)
    with Image.open(tmp_path / "out" / name) as after:
        # A TIFF is written upright, as Pillow reads it; the others keep their pixels' order and their tag.
        assert after.getexif().get(0x0112, 1) == (1 if name == "a.tif" else orientation)
        shown = np.asarray(ImageOps.exif_transpose(after)).astype(int)
    assert np.abs(shown - photo.values).max() <= 8


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_profile_exif_and_xmp_are_kept(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"exif": exif(6), "icc_profile": PROFILE, "xmp": XMP}
    if name == "a.png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
        options["pnginfo"].add_text("Comment", "hello")
        options["pnginfo"].add(b"gAMA", struct.pack(">I", 45455))
    if name == "a.tif":
        from PIL.TiffImagePlugin import ImageFileDirectory_v2

        options["tiffinfo"] = ImageFileDirectory_v2()
        options["tiffinfo"][700], options["tiffinfo"][271], options["tiffinfo"][274] = XMP, "a camera", 6
        del options["exif"], options["xmp"]
    noise_photo("RGB").save(tmp_path / name, **options)
    photo = picture.read(tmp_path / name)
    written(photo, tmp_path / "out" / name, photo.format)
    with Image.open(tmp_path / name) as before, Image.open(tmp_path / "out" / name) as after:
        assert after.info["icc_profile"] == PROFILE
        assert after.getexif()[0x010F] == "a camera"
        assert after.getexif().get(0x0112, 1) == (1 if name == "a.tif" else 6)
        assert after.info.get("xmp") == before.info["xmp"]
        if name != "a.tif":
            assert after.getexif().get_ifd(0x8825)[1] == "N"
        if name == "a.png":
            assert after.info["gamma"] == before.info["gamma"]
            assert after.info["Comment"] == "hello"


@pytest.mark.parametrize(
    ("name", "kind"), [("a.jpg", "PNG"), ("a.webp", "PNG"), ("a.tif", "PNG"), ("a.png", "JPEG"), ("a.webp", "JPEG")]
)
def test_metadata_goes_along_into_another_format(name: str, kind: str, tmp_path: Path) -> None:
    more = {} if name in ("a.tif", "a.png") else {"xmp": XMP}
    noise_photo("RGB").save(tmp_path / name, exif=exif(6), icc_profile=PROFILE, **more)
    photo = picture.read(tmp_path / name)
    target = tmp_path / "out" / f"a{picture.KEPT[kind]}"
    written(photo, target, kind)
    with Image.open(target) as after:
        assert after.info["icc_profile"] == PROFILE
        assert after.getexif()[0x010F] == "a camera"
        assert after.info.get("xmp") == more.get("xmp")
        shown = np.asarray(ImageOps.exif_transpose(after)).astype(int)
    assert np.abs(shown - photo.values).max() <= 8


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("strip_gps", [False, True])
def test_the_place_is_kept_unless_it_is_to_go(name: str, strip_gps: bool, tmp_path: Path) -> None:
    noise_photo("RGB").save(tmp_path / name, exif=exif(3))
    photo = picture.read(tmp_path / name)
    written(photo, tmp_path / "out" / name, photo.format, strip_gps=strip_gps)
    with Image.open(tmp_path / "out" / name) as after:
        assert after.getexif()[0x010F] == "a camera"
        assert after.getexif()[0x0112] == 3
        assert (0x8825 in after.getexif()) is not strip_gps


def test_jpeg_comments_and_foreign_segments_are_kept(tmp_path: Path) -> None:
    data = io.BytesIO()
    noise_photo("RGB").save(data, "JPEG", comment=b"by me")
    content = data.getvalue()
    foreign = b"\xff\xed" + struct.pack(">H", 2 + 14) + b"Photoshop 3.0\0"
    (tmp_path / "a.jpg").write_bytes(content[:20] + foreign + content[20:])
    photo = picture.read(tmp_path / "a.jpg")
    written(photo, tmp_path / "out.jpg", "JPEG")
    assert foreign in (tmp_path / "out.jpg").read_bytes()
    with Image.open(tmp_path / "out.jpg") as after:
        assert after.info["comment"] == b"by me"
        assert all(part[1:3] == (1, 1) for part in after.layer), "chroma is not subsampled"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4])
def test_sixteen_bits_stay_sixteen_bits(channels: int, kind: int, tmp_path: Path) -> None:
    array = np.random.default_rng(kind).integers(0, 65536, (70, 80, channels)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(_deep_png(array, kind))
    photo = picture.read(tmp_path / "a.png")
    if channels in (1, 3):
        assert np.array_equal(photo.values, array)
    assert photo.per_level == 257
    saved = written(photo, tmp_path / "out.png", "PNG", levels=5)
    again = picture.read(tmp_path / "out.png")
    assert again.values.dtype == np.uint16
    assert saved.largest == pytest.approx(5) or channels in (2, 4)
    # What lies below a level is as it was.
    inside = (photo.values > 2000) & (photo.values < 63000)
    assert ((again.values.astype(int) - photo.values) % 257 == 0)[inside].all()


def _deep_png(array: np.ndarray, kind: int) -> bytes:
    """A 16-bit PNG with every row in filter `kind`, written straight from the standard."""
    height, width, channels = array.shape
    rows = np.ascontiguousarray(array.astype(">u2")).view(np.uint8).reshape(height, -1).astype(int)
    step, lines = 2 * channels, []
    for number, row in enumerate(rows):
        above = rows[number - 1] if number else np.zeros_like(row)
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        guess = left + above - corner
        gaps = np.abs(guess - left), np.abs(guess - above), np.abs(guess - corner)
        paeth = np.where((gaps[0] <= gaps[1]) & (gaps[0] <= gaps[2]), left, np.where(gaps[1] <= gaps[2], above, corner))
        expected = [np.zeros_like(row), left, above, (left + above) // 2, paeth][kind]
        lines.append(bytes([kind]) + ((row - expected) % 256).astype(np.uint8).tobytes())
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    return containers.PNG_SIGNATURE + parts


def test_transparent_pixels_and_alpha_stay_as_they_are(tmp_path: Path) -> None:
    noise_photo("RGBA").save(tmp_path / "a.png")
    photo = picture.read(tmp_path / "a.png")
    written(photo, tmp_path / "out.png", "PNG")
    before, after = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("a.png", "out.png"))
    assert np.array_equal(before[:, :, 3], after[:, :, 3])
    assert np.array_equal(before[before[:, :, 3] == 0], after[before[:, :, 3] == 0])
    assert not np.array_equal(before, after)


def test_palettes_become_full_colour_and_say_so(tmp_path: Path) -> None:
    noise_photo("RGB").quantize(32).save(tmp_path / "p.png", transparency=3)
    noise_photo("L").convert("1").save(tmp_path / "one.png")
    for name, mode in (("p.png", "RGBA"), ("one.png", "L")):
        photo = picture.read(tmp_path / name)
        assert any("palette" in remark for remark in photo.remarks)
        written(photo, tmp_path / "out" / name, "PNG")
        assert Image.open(tmp_path / "out" / name).mode == mode


def test_what_cannot_be_written_back_is_refused_by_name(tmp_path: Path) -> None:
    noise_photo("RGB").convert("CMYK").save(tmp_path / "cmyk.jpg")
    noise_photo("RGB").convert("LAB").save(tmp_path / "lab.tif")
    noise_photo("L").convert("F").save(tmp_path / "float.tif")
    noise_photo("RGB").save(tmp_path / "anim.webp", save_all=True, append_images=[noise_photo("RGB", seed=2)])
    noise_photo("RGB").save(tmp_path / "pages.tif", save_all=True, append_images=[noise_photo("RGB", seed=2)])
    noise_photo("RGB").quantize(8).save(tmp_path / "a.gif")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 64)
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(_deep_png(np.ones((64, 64, 3), np.uint16), 1)[:200])
    noise_photo("RGB").save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    said = {"cmyk.jpg": "CMYK", "lab.tif": "Lab", "float.tif": "floating", "anim.webp": "animated",
            "pages.tif": "several pages", "a.gif": "256 colours", "phone.heic": "convert", "zero.png": "empty",
            "cut.png": "damaged", "cut.jpg": "damaged"}  # fmt: skip
    for name, word in said.items():
        with pytest.raises(Unusable, match=word):
            picture.read(tmp_path / name)


def test_a_file_that_comes_out_wrong_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise_photo("RGB").save(tmp_path / "a.png")
    photo = picture.read(tmp_path / "a.png")
    honest = picture.encoded

    def careless(
        one: picture.Picture, values: np.ndarray, kind: str, quality: int = 95, *, place: bool = True
    ) -> bytes:
        return honest(one, np.clip(values.astype(int) + 3, 0, 255).astype(np.uint8), kind, quality, place=place)

    monkeypatch.setattr(picture, "encoded", careless)
    with pytest.raises(RunFailed, match="levels from the photo"):
        written(photo, tmp_path / "out.png", "PNG", levels=8)
    assert list(tmp_path.glob("*out*")) == []
