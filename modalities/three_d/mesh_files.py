"""Meshes and point clouds on disk: GLB (glTF 2.0, https://registry.khronos.org/glTF/specs/2.0), OBJ and PLY."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from modalities.core.files import replacing, write_text
from modalities.three_d.mesh import Mesh

FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
VERTICES, INDICES = 34962, 34963


def glb(mesh: Mesh) -> bytes:
    """The mesh as one binary glTF 2.0 with normals and vertex colours; lengths are metres, y is up, it faces +z."""
    # glTF's vertex colours are linear light, and each vertex must fill a multiple of four bytes.
    linear = np.ones((len(mesh.colours), 4))
    linear[:, :3] = _linear(mesh.colours)
    parts = [
        (mesh.faces.astype("<u4"), UNSIGNED_INT, "SCALAR", INDICES, {}),
        (mesh.vertices.astype("<f4"), FLOAT, "VEC3", VERTICES, _bounds(mesh)),
        (mesh.normals().astype("<f4"), FLOAT, "VEC3", VERTICES, {}),
        ((linear * 65535).round().astype("<u2"), UNSIGNED_SHORT, "VEC4", VERTICES, {"normalized": True}),
    ]
    blob, views, accessors = b"", [], []
    for number, (array, kind, shape, target, more) in enumerate(parts):
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": array.nbytes, "target": target})
        count = array.size if shape == "SCALAR" else len(array)
        accessors.append({"bufferView": number, "componentType": kind, "count": count, "type": shape} | more)
        blob += array.tobytes()
    blob += b"\0" * (-len(blob) % 4)
    about = {
        "asset": {"version": "2.0", "generator": "pcs", "extras": {"unit": "metre", "up": "+y", "front": "+z"}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "subject"}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}}],
        "meshes": [
            {
                "primitives": [
                    {"attributes": {"POSITION": 1, "NORMAL": 2, "COLOR_0": 3}, "indices": 0, "material": 0, "mode": 4}
                ]
            }
        ],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob)}],
    }
    text = json.dumps(about, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def write_glb(mesh: Mesh, path: Path) -> None:
    """Write `glb(mesh)`."""
    with replacing(path) as temporary:
        temporary.write_bytes(glb(mesh))


def write_obj(mesh: Mesh, path: Path) -> None:
    """Write a Wavefront OBJ whose vertices carry their colours, `v x y z r g b`, as MeshLab and Blender read it."""
    lines = ["# y up, faces +z, metres"]
    lines += [
        f"v {x:.5f} {y:.5f} {z:.5f} {r:.4f} {g:.4f} {b:.4f}"
        for (x, y, z), (r, g, b) in zip(mesh.vertices.tolist(), mesh.colours.tolist(), strict=True)
    ]
    lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in mesh.normals().tolist()]
    lines += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in (mesh.faces + 1).tolist()]
    write_text(path, "\n".join(lines) + "\n")


def write_points(points: np.ndarray, colours: np.ndarray, path: Path) -> None:
    """Write a binary PLY of points (n, 3) with colours (n, 3) in [0, 1]."""
    vertex = np.dtype([("position", "<f4", 3), ("colour", "u1", 3)])
    table = np.empty(len(points), vertex)
    table["position"], table["colour"] = points, (np.clip(colours, 0, 1) * 255).round()
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    head += [*(f"property float {axis}" for axis in "xyz"), *(f"property uchar {c}" for c in ("red", "green", "blue"))]
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join([*head, "end_header", ""]).encode("ascii"))
        file.write(table.tobytes())


def _bounds(mesh: Mesh) -> dict[str, list[float]]:
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    return {"min": [float(value) for value in low], "max": [float(value) for value in high]}


def _linear(colours: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    colours = np.clip(colours, 0, 1)
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
