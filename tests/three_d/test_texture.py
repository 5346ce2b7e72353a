"""Light meshes with a texture: the shape is kept, closed, and every colour is where it belongs, in every file."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.three_d import mesh_files
from modalities.three_d.mesh import Mesh
from modalities.three_d.raster import rasterize
from modalities.three_d.texture import Textured, decimated, textured
from tests.three_d.test_scene import ball, meshed


def striped(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Red grows to the right, green upwards, blue where the surface faces the front."""
    return np.stack([points[:, 0] * 0.5 + 0.5, points[:, 1] * 0.5 + 0.5, normals[:, 2] * 0.5 + 0.5], 1).clip(0, 1)


@pytest.fixture(scope="module")
def solid() -> Textured:
    return textured(decimated(meshed(ball(28)), 600), striped, 128)


def test_fewer_triangles_keep_the_shape_and_stay_closed() -> None:
    mesh = meshed(ball(40))
    fewer = decimated(mesh, 800)
    assert len(fewer.faces) <= 800
    assert fewer.is_closed
    assert fewer.volume == pytest.approx(mesh.volume, rel=0.02)
    assert decimated(fewer, 5000) is fewer


def test_what_would_not_stay_closed_keeps_more_triangles(monkeypatch: pytest.MonkeyPatch) -> None:
    import fast_simplification

    real, asked = fast_simplification.simplify, []

    def tearing(vertices: np.ndarray, faces: np.ndarray, target_count: int, agg: float) -> Any:
        asked.append(target_count)
        found = real(vertices, faces, target_count=target_count, agg=agg)
        return (found[0], found[1][1:]) if target_count < 400 else found

    monkeypatch.setattr(fast_simplification, "simplify", tearing)
    fewer = decimated(meshed(ball(28)), 100)
    assert asked == [100, 200, 400]
    assert fewer.is_closed
    noise = meshed(np.random.default_rng(0).random((14, 14, 14)).astype(np.float32), 0.5).largest_part()
    assert decimated(noise, 4).is_closed


def test_sheets_that_share_an_edge_get_their_own() -> None:
    # Two tetrahedra that touch along the edge from 0 to 1, and one far away.
    corners = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]
    vertices = np.array([*corners, *(np.array(corners[:4]) + 5)], np.float32)
    one = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    other = np.array([0, 1, 4, 5])[one]
    mesh = Mesh(vertices, np.concatenate([one, other, one + 6]).astype(np.int32))
    assert not mesh.is_closed
    apart = mesh.separated()
    assert apart.is_closed
    assert apart.volume == pytest.approx(mesh.volume) == pytest.approx(0.5)
    assert len(apart.faces) == len(mesh.faces) + 2
    flap = Mesh(mesh.vertices, np.concatenate([mesh.faces, [[2, 7, 3], [2, 3, 7]]]).astype(np.int32))
    assert np.array_equal(flap.separated().faces, apart.faces)


def test_the_texture_has_each_colour_where_it_belongs(solid: Textured) -> None:
    face, shares = solid.mesh.scattered(2000)
    wanted = striped(
        solid.mesh.points(face, shares), (solid.mesh.normals()[solid.mesh.faces[face]] * shares[..., None]).sum(1)
    )
    off = np.abs(solid.colours_at(face, shares) - wanted).max(1)
    assert np.quantile(off, 0.95) < 0.06
    assert off.max() < 0.3, "no seam shows another chart"
    assert np.array_equal(solid.source[solid.faces], solid.mesh.faces), "charts keep the triangles and their order"


def test_the_nearest_triangle_is_seen_and_its_places_follow_its_corners() -> None:
    near = torch.tensor([[2.0, 2.0, 1.0], [14.0, 2.0, 1.0], [2.0, 14.0, 1.0]])
    far = torch.tensor([[0.0, 0.0, 2.0], [16.0, 0.0, 2.0], [0.0, 16.0, 4.0]])
    corners = torch.stack([far, near]).requires_grad_()
    seen = rasterize(corners, 16)
    assert seen.face[4, 4] == 1
    assert seen.face[0, 0] == 0
    assert seen.face[15, 15] == -1
    column = (seen.shares[4, 4] * corners[1, :, 0]).sum()
    assert float(column.detach()) == pytest.approx(4.5, abs=1e-4)
    # In space, half way down the far triangle in the picture is nearer to its upper corners.
    assert seen.shares[7, 0, 2].detach() < 0.4
    (moved,) = torch.autograd.grad(seen.shares[4, 4, 0], corners)
    assert moved[1].abs().sum() > 0
    assert moved[0].abs().sum() == 0


def _read_glb(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    about, blob = json.loads(data[20 : 20 + size]), data[28 + size :]
    assert about["buffers"][0]["byteLength"] == len(blob)
    views = about["bufferViews"]
    return about, [blob[view["byteOffset"] : view["byteOffset"] + view["byteLength"]] for view in views]


def _off(picture: Image.Image, places: np.ndarray, vertices: np.ndarray) -> float:
    """How far red and green of the picture, `places` from its upper left, are off what `striped` paints, the median."""
    pixels = np.asarray(picture.convert("RGB")) / 255
    column, row = np.clip((places * len(pixels)).astype(int), 0, len(pixels) - 1).T
    return float(np.median(np.abs(pixels[row, column, :2] - (vertices[:, :2] * 0.5 + 0.5))))


def test_glb_holds_the_mesh_and_its_texture(solid: Textured, tmp_path: Path) -> None:
    mesh_files.write_glb(solid, tmp_path / "ball.glb")
    about, parts = _read_glb(tmp_path / "ball.glb")
    vertices = np.frombuffer(parts[1], "<f4").reshape(-1, 3)
    assert np.array_equal(vertices, solid.mesh.vertices[solid.source])
    assert about["accessors"][0]["count"] == solid.mesh.faces.size
    assert about["accessors"][1]["max"] == vertices.max(0).tolist()
    assert about["asset"]["extras"] == {"unit": "metre", "up": "+y", "front": "+z"}
    picture = Image.open(io.BytesIO(parts[about["images"][0]["bufferView"]]))
    assert picture.size == (128, 128)
    assert _off(picture, np.frombuffer(parts[3], "<f4").reshape(-1, 2), vertices) < 0.03


def test_obj_names_its_material_and_its_texture(solid: Textured, tmp_path: Path) -> None:
    mesh_files.write_obj(solid, tmp_path / "ball.obj")
    lines = [line.split() for line in (tmp_path / "ball.obj").read_text().splitlines()]
    assert ["mtllib", "ball.mtl"] in lines
    assert "map_Kd ball.png" in (tmp_path / "ball.mtl").read_text().splitlines()
    vertices, places = (np.array([line[1:] for line in lines if line[0] == kind], float) for kind in ("v", "vt"))
    corners = np.array([[corner.split("/") for corner in line[1:]] for line in lines if line[0] == "f"], int) - 1
    assert np.array_equal(corners[..., 0], solid.mesh.faces)
    flat = corners.reshape(-1, 3)
    from_above = places[flat[:, 1]] * [1, -1] + [0, 1]
    assert _off(Image.open(tmp_path / "ball.png"), from_above, vertices[flat[:, 0]]) < 0.03


def test_a_tiny_obj_has_all_its_vertices(solid: Textured, tmp_path: Path) -> None:
    mesh_files.write_obj(solid.standing(0.001), tmp_path / "ball.obj")
    told = [line for line in (tmp_path / "ball.obj").read_text().splitlines() if line.startswith("v ")]
    assert len(set(told)) == len(told) == len(solid.mesh.vertices)


def test_points_can_be_read_back(tmp_path: Path) -> None:
    mesh = meshed(ball(20))
    points = mesh.points(*mesh.scattered(500))
    mesh_files.write_points(points, np.full_like(points, 0.5), tmp_path / "ball.ply")
    data = (tmp_path / "ball.ply").read_bytes()
    assert len(data.partition(b"end_header\n")[2]) == 500 * 15
    assert np.linalg.norm(points, axis=1) == pytest.approx(0.6, abs=0.03)


def test_a_mesh_of_one_triangle_is_not_closed() -> None:
    assert not Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32)).is_closed
