"""Photos and places that are odd: what becomes of them, and that what was done is kept."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from protect import picture
from protect.containers import PNG_SIGNATURE
from protect.folder import read_record
from protect.pair import paired
from tests import tiny
from tests.cli.test_protect import Pcs, cloak, levels

__all__ = ["cloak"]


def test_a_second_picture_or_gain_map_is_left_out_and_said(cloak: Pcs, tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path / "photos", count=1)
    one, other = (Image.open(photos / "00.png").convert("RGB"), Image.new("RGB", (80, 80), "gray"))
    one.save(photos / "two.mpo.jpg", "MPO", save_all=True, append_images=[other])
    data = io.BytesIO()
    one.save(data, "JPEG", xmp=b"<x:xmpmeta hdrgm:Version='1.0'/>")
    (photos / "gain.jpg").write_bytes(data.getvalue() + b"the gain map")
    done = cloak(photos, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    for name in ("two.mpo.jpg", "gain.jpg"):
        assert f"{name} holds a second picture or a gain map, which is left out" in done.err
        assert np.abs(levels(tmp_path / "out" / name) - levels(photos / name)).max() <= 8
    with Image.open(tmp_path / "out" / "two.mpo.jpg") as after:
        assert (after.format, getattr(after, "n_frames", 1)) == ("JPEG", 1)


def test_a_scan_of_sixteen_bits_and_a_phones_photo_go_all_the_way(cloak: Pcs, tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    photos = tiny.photos(tmp_path / "photos", count=1)
    plain = Image.open(photos / "00.png").convert("RGB")
    plain.save(photos / "phone.heic", quality=90)
    deep = np.asarray(plain).astype(np.uint16) * 257 + 5
    tifffile.imwrite(photos / "scan.tif", deep, photometric="rgb")
    done = cloak(photos, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "phone.heic is HEIF, which is written as PNG" in done.err
    gap = tifffile.imread(tmp_path / "out" / "scan.tif").astype(int) - deep
    assert 257 <= np.abs(gap).max() <= 8 * 257
    assert {pair.name: 0 < pair.largest <= 8 for pair in paired(photos, tmp_path / "out")} == {
        "00.png": True,
        "phone.heic": True,
        "scan.tif": True,
    }


def test_files_of_print_animations_and_raw_are_named_and_the_rest_is_done(cloak: Pcs, tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path / "photos", count=1)
    plain = Image.open(photos / "00.png").convert("RGB")
    plain.convert("CMYK").save(photos / "print.jpg")
    plain.save(photos / "moving.gif", save_all=True, append_images=[plain.rotate(90)])
    (photos / "camera.dng").write_bytes(b"raw")
    (photos / "live.mov").write_bytes(b"a clip")
    done = cloak(photos, "-o", tmp_path / "out")
    assert done.code == 1
    said = {"print.jpg": "is CMYK; convert it", "moving.gif": "is animated", "camera.dng": "is a camera's raw file"}
    for name, reason in said.items():
        assert f"{name} is not protected: it {reason}" in " ".join(done.err.split())
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["00.png", "protect.json"]


def test_a_picture_larger_than_any_limit_is_refused_unread(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 0) + b"IDAT"
    (tmp_path / "bomb.png").write_bytes(PNG_SIGNATURE + body)
    with pytest.raises(picture.Unusable, match="too large"):
        picture.read(tmp_path / "bomb.png")


def test_names_as_long_as_may_be_are_kept(cloak: Pcs, tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path / "photos", count=1)
    name = "a photo with a name " + "x" * 231 + ".png"
    (photos / "00.png").rename(photos / name)
    done = cloak(photos, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / name).is_file()


def test_a_disk_that_fills_up_is_said_and_finished_files_stay(
    cloak: Pcs, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if ".01" in self.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return honest(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        done = cloak(photos, "-o", tmp_path / "out", "--set", "together=1")
    assert done.code == 1
    assert "No space left on device" in done.message or "full" in done.message
    finished = (tmp_path / "out" / "00.png").read_bytes()
    again = cloak(photos, "-o", tmp_path / "out", "--set", "together=1", "--resume")
    assert again.code == 0, again.err
    assert (tmp_path / "out" / "00.png").read_bytes() == finished
    assert (tmp_path / "out" / "02.png").is_file()


def test_the_record_tells_nothing_of_the_place_of_the_photos(cloak: Pcs, photos: Path, tmp_path: Path) -> None:
    assert cloak(photos, "-o", tmp_path / "out").code == 0
    assert str(photos) not in (tmp_path / "out" / "protect.json").read_text()


def test_many_photos_are_held_a_group_at_a_time(cloak: Pcs, tmp_path: Path) -> None:
    photos = tiny.photos(tmp_path / "photos", count=1)
    for number in range(1, 40):
        (photos / f"{number:02}.png").write_bytes((photos / "00.png").read_bytes())
    done = cloak(photos, "-o", tmp_path / "out", "--set", "program=[{do: [{perturb: main}]}]")
    assert done.code == 0, done.err
    assert "in 5 groups" in done.err
    record = read_record(tmp_path / "out")
    assert record is not None
    assert len(record["files"]) == 40
