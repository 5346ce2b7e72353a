"""Whatever the file, its protected one is the same file with other pixels, none further away than the budget."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngImageFile, PngInfo

from modalities.core import recipe
from modalities.core.media import Unusable
from protect import containers, deep_tiff, folder, picture
from protect.recipe import Output, Protection
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
    ("a.ppm", "RGB", {}),
    ("deep.png", "RGB", {}),
    ("deep.png", "LA", {}),
    ("deep.tif", "RGB", {}),
    ("deep.tif", "RGBA", {"compression": "zlib"}),
    ("deep.tif", "L", {"tile": (64, 64)}),
]


def save_photo(path: Path, mode: str, options: dict[str, Any], *args: int, seed: int = 0) -> np.ndarray:
    """Write a photo, names of `deep` with 16 bits a channel; return its values in levels."""
    image = noise_photo(mode, *args, seed=seed)
    array = np.asarray(image)
    if not path.name.startswith("deep"):
        image.save(path, **options)
        return np.asarray(Image.open(path)).astype(float)
    low = np.random.default_rng(seed).integers(0, 256, array.shape)
    deep = (array.astype(np.uint16) * 256 + low).astype(np.uint16)
    if path.suffix == ".png":
        path.write_bytes(_deep_png(deep.reshape(*array.shape[:2], -1), 2))
    else:
        more = {"extrasamples": ["unassalpha"]} if mode == "RGBA" else {}
        colour: Any = "minisblack" if mode == "L" else "rgb"
        tifffile.imwrite(path, deep, photometric=colour, **more, **options)
    return deep / 257


def read_photo(path: Path, like: np.ndarray) -> np.ndarray:
    """Values of a file in levels, by a reader that is not ours."""
    if not path.name.startswith("deep"):
        return np.asarray(Image.open(path)).astype(float)
    if path.suffix == ".tif":
        return tifffile.imread(path) / 257
    photo = picture.read(path)
    parts = [photo.values] if photo.alpha is None else [photo.values, photo.alpha[:, :, None]]
    return np.concatenate(parts, 2).reshape(like.shape) / 257


@pytest.mark.parametrize(("name", "mode", "options"), FORMATS)
@pytest.mark.parametrize("levels", [1, 3, 8, 16])
def test_no_file_is_over_the_budget(name: str, mode: str, options: dict[str, Any], levels: int, tmp_path: Path) -> None:
    before = save_photo(tmp_path / name, mode, options, seed=levels)
    photo, target = picture.read(tmp_path / name), tmp_path / "out" / name
    try:
        saved = written(photo, target, photo.format, levels)
    except Unusable as reason:
        assert photo.format == "JPEG"
        assert levels < 3, reason
        assert not target.exists()
        return
    after = read_photo(target, before)
    assert after.shape == before.shape
    gap = np.abs(after - before)
    assert gap.max() <= levels + 1e-9
    assert saved.largest == pytest.approx(gap.max()) or photo.alpha is not None
    assert gap.max() > 0
    if not name.startswith("deep"):
        with Image.open(tmp_path / name) as one, Image.open(target) as other:
            assert (one.mode, one.size, one.format) == (other.mode, other.size, other.format)


@pytest.mark.parametrize("seed", range(16))
def test_random_pictures_of_random_kinds_stay_inside(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    name, mode, options = FORMATS[int(draw.integers(len(FORMATS)))]
    height, width = (int(side) for side in draw.integers(64, 150, 2))
    levels, quality = int(draw.integers(3, 20)), int(draw.integers(50, 101))
    before = save_photo(tmp_path / name, mode, options, height, width, seed=seed)
    photo = picture.read(tmp_path / name)
    assert written(photo, tmp_path / "out" / name, photo.format, levels, quality).largest <= levels
    assert np.abs(read_photo(tmp_path / "out" / name, before) - before).max() <= levels + 1e-9


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


def test_a_place_in_compressed_text_goes_too(tmp_path: Path) -> None:
    said = PngInfo()
    said.add_text("Comment", "mine", zip=True)
    tags = exif(1)
    said.add_text("Raw profile type exif", f"\nexif\n{len(tags):8}\n{tags.hex()}\n", zip=True)
    said.add_itxt("XML:com.adobe.xmp", "<x exif:GPSLatitude='48,51N'/>", zip=True)
    noise_photo("RGB").save(tmp_path / "a.png", pnginfo=said)
    photo = picture.read(tmp_path / "a.png")
    for strip_gps, left in ((False, 3), (True, 1)):
        written(photo, tmp_path / "out.png", "PNG", strip_gps=strip_gps)
        with Image.open(tmp_path / "out.png") as after:
            assert isinstance(after, PngImageFile)
            assert len(after.text) == left
            assert after.text["Comment"] == "mine"


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


def test_what_cannot_be_written_back_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where the plugin for HEIC is not installed.
    monkeypatch.setattr(picture, "allow_heic", lambda: None)
    pages: dict[str, Any] = {"save_all": True, "append_images": [noise_photo("RGB", seed=2)]}
    noise_photo("RGB").convert("CMYK").save(tmp_path / "cmyk.jpg")
    noise_photo("RGB").convert("CMYK").save(tmp_path / "cmyk.tif")
    noise_photo("RGB").convert("LAB").save(tmp_path / "lab.tif")
    noise_photo("L").convert("F").save(tmp_path / "float.tif")
    tifffile.imwrite(tmp_path / "hdr.tif", np.ones((64, 64, 3), np.float32), photometric="rgb")
    tifffile.imwrite(tmp_path / "big.tif", np.ones((64, 64, 3), np.uint16), photometric="rgb", bigtiff=True)
    tifffile.imwrite(tmp_path / "planes.tif", np.ones((3, 64, 64), np.uint16), photometric="rgb")
    (tmp_path / "deep.ppm").write_bytes(b"P6 64 64 65535\n" + bytes(64 * 64 * 6))
    for name in ("anim.webp", "anim.png", "anim.gif", "pages.tif"):
        noise_photo("RGB").save(tmp_path / name, **pages)
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 64)
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(_deep_png(np.ones((64, 64, 3), np.uint16), 1)[:200])
    noise_photo("RGB").save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    tifffile.imwrite(tmp_path / "cut.tif", np.ones((64, 64, 3), np.uint16), photometric="rgb")
    (tmp_path / "cut.tif").write_bytes((tmp_path / "cut.tif").read_bytes()[:900])
    said = {"cmyk.jpg": "CMYK", "cmyk.tif": "CMYK", "lab.tif": "Lab", "float.tif": "floating", "hdr.tif": "8 or 16",
            "planes.tif": "pixel by pixel", "deep.ppm": "16-bit PNG", "anim.webp": "animated", "anim.png": "animated",
            "big.tif": "BigTIFF",
            "anim.gif": "animated", "pages.tif": "several pages", "phone.heic": "install pillow-heif",
            "zero.png": "empty", "text.png": "not a picture", "cut.png": "damaged", "cut.jpg": "damaged",
            "cut.tif": "damaged|cannot be read"}  # fmt: skip
    for name, word in said.items():
        with pytest.raises(Unusable, match=word):
            picture.read(tmp_path / name)


@pytest.mark.parametrize(("channels", "colour"), [(1, "minisblack"), (3, "rgb"), (4, "rgb")])
@pytest.mark.parametrize("coding", [{}, {"compression": "zlib", "predictor": True}, {"tile": (32, 48)}])
@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_a_tiff_stay_too(
    channels: int, colour: Any, coding: dict[str, Any], order: Any, tmp_path: Path
) -> None:
    draw = np.random.default_rng(channels)
    array = draw.integers(0, 65536, (70, 83, channels)).astype(np.uint16)
    plain = array if channels > 1 else array[:, :, 0]
    more = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tags = [(271, "s", 0, "a camera", True), (34675, "B", len(PROFILE), PROFILE, True), (700, "B", len(XMP), XMP, True)]
    tifffile.imwrite(
        tmp_path / "a.tif", plain, photometric=colour, byteorder=order, extratags=tags, software="a program",
        **coding, **more,
    )  # fmt: skip
    photo = picture.read(tmp_path / "a.tif")
    assert np.array_equal(photo.values, array[:, :, :3])
    saved = written(photo, tmp_path / "out.tif", "TIFF", levels=5)
    assert saved.largest == pytest.approx(5)
    again = tifffile.imread(tmp_path / "out.tif").reshape(array.shape)
    assert again.dtype == np.uint16
    assert np.abs(again.astype(int) - array).max() <= 5 * 257
    # What lies below a level is as it was, and so is alpha.
    inside = (array > 2000) & (array < 63000)
    assert ((again.astype(int) - array) % 257 == 0)[inside].all()
    assert np.array_equal(again[:, :, 3:], array[:, :, 3:])
    with Image.open(tmp_path / "out.tif") as opened:
        after: Any = opened
        assert (after.tag_v2[271], after.tag_v2[305]) == ("a camera", "a program")
        assert bytes(after.tag_v2[700]) == XMP
        assert after.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("strip_gps", [False, True])
def test_a_turned_deep_tiff_stays_turned_and_keeps_or_leaves_its_place(strip_gps: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 65536, (70, 83, 3)).astype(np.uint16)
    tags = Image.Exif()
    tags.load(exif(6))
    noise_photo("RGB", 70, 83).save(tmp_path / "a.tif", exif=tags)
    with Image.open(tmp_path / "a.tif") as plain:
        (tmp_path / "a.tif").write_bytes(deep_tiff.write(tmp_path / "a.tif", array))
        assert plain.getexif().get_ifd(0x8825)[1] == "N"
    photo = picture.read(tmp_path / "a.tif")
    assert np.array_equal(photo.values, np.rot90(array, -1))
    written(photo, tmp_path / "out.tif", "TIFF", strip_gps=strip_gps)
    assert picture.read(tmp_path / "out.tif").size == (83, 70)
    with Image.open(tmp_path / "out.tif") as after:
        assert after.getexif()[0x0112] == 6
        assert (0x8825 in after.getexif()) is not strip_gps
        assert strip_gps or after.getexif().get_ifd(0x8825)[1] == "N"


@pytest.mark.parametrize("name", ["a.heic", "a.avif", "a.gif"])
def test_what_its_own_format_could_not_keep_becomes_png(name: str, tmp_path: Path) -> None:
    if name == "a.heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    more: dict[str, Any] = {} if name == "a.gif" else {"exif": exif(6), "icc_profile": PROFILE}
    noise_photo("RGB").save(tmp_path / name, **more)
    entry = folder.look(tmp_path, tmp_path.parent / "out", protection()).entries[0]
    assert (entry.kind, entry.target.name) == ("PNG", "a.png")
    assert any("written as PNG" in remark for remark in entry.remarks)
    photo = picture.read(tmp_path / name)
    with Image.open(tmp_path / name) as opened:
        assert np.array_equal(photo.values, np.asarray(ImageOps.exif_transpose(opened).convert("RGB")))
    written(photo, tmp_path / "out.png", "PNG")
    with Image.open(tmp_path / "out.png") as after:
        assert np.abs(np.asarray(ImageOps.exif_transpose(after)).astype(int) - photo.values).max() <= 8
        assert name == "a.gif" or after.getexif()[0x010F] == "a camera"
        assert name == "a.gif" or after.info["icc_profile"] == PROFILE


def protection() -> Protection:
    made = recipe.parse("{title: test, modality: protect, data: {subject: '{noun}'}}", "test")
    assert isinstance(made, Protection)
    return made


def test_a_file_that_comes_out_wrong_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise_photo("RGB").save(tmp_path / "a.png")
    photo = picture.read(tmp_path / "a.png")
    honest = picture.encoded

    def careless(
        one: picture.Picture, values: np.ndarray, kind: str, quality: int = 95, *, place: bool = True
    ) -> bytes:
        return honest(one, np.clip(values.astype(int) + 3, 0, 255).astype(np.uint8), kind, quality, place=place)

    monkeypatch.setattr(picture, "encoded", careless)
    with pytest.raises(Unusable, match="levels from the photo"):
        written(photo, tmp_path / "out.png", "PNG", levels=8)
    assert list(tmp_path.glob("*out*")) == []
