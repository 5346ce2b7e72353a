"""Meshes and point clouds on disk: GLB (glTF 2.0, https://registry.khronos.org/glTF/specs/2.0), OBJ and PLY."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import torch

from modalities.core import media
from modalities.core.files import replacing, write_text
from modalities.three_d.texture import Textured

FLOAT, UNSIGNED_INT = 5126, 5125
VERTICES, INDICES = 34962, 34963
REPEAT_NOT, LINEAR, LINEAR_MIPMAP_LINEAR = 33071, 9729, 9987
MATT = {"metallicFactor": 0.0, "roughnessFactor": 0.9, "baseColorTexture": {"index": 0}}
ABOUT = {"unit": "metre", "up": "+y", "front": "+z"}


def glb(solid: Textured) -> bytes:
    """The mesh as one binary glTF 2.0 with normals and its texture; lengths are metres, y is up, it faces +z."""
    vertices = solid.mesh.vertices[solid.source].astype("<f4")
    parts = [
        (solid.faces.astype("<u4").tobytes(), INDICES),
        (vertices.tobytes(), VERTICES),
        (solid.mesh.normals()[solid.source].astype("<f4").tobytes(), VERTICES),
        (solid.places.astype("<f4").tobytes(), VERTICES),
        (_png(solid), None),
    ]
    blob, views = b"", []
    for data, target in parts:
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)} | _target(target))
        blob += data + b"\0" * (-len(data) % 4)
    bounds = {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()}
    kinds = ((UNSIGNED_INT, "SCALAR", solid.faces.size), *((FLOAT, kind, len(vertices)) for kind in VECTORS))
    accessors = [
        {"bufferView": number, "componentType": kind, "count": count, "type": shape} | (bounds if number == 1 else {})
        for number, (kind, shape, count) in enumerate(kinds)
    ]
    return _joined(_about(views, accessors, len(blob)), blob)


VECTORS = ("VEC3", "VEC3", "VEC2")


def _about(views: list[dict[str, int]], accessors: list[dict[str, object]], length: int) -> dict[str, object]:
    """The head of the file: one mesh, one matt material with one texture."""
    attributes = {"POSITION": 1, "NORMAL": 2, "TEXCOORD_0": 3}
    return {
        "asset": {"version": "2.0", "generator": "pcs", "extras": ABOUT},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "subject"}],
        "materials": [{"pbrMetallicRoughness": MATT}],
        "textures": [{"source": 0, "sampler": 0}],
        "images": [{"bufferView": len(views) - 1, "mimeType": "image/png"}],
        "samplers": [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": REPEAT_NOT, "wrapT": REPEAT_NOT}
        ],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 0, "material": 0, "mode": 4}]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": length}],
    }


def _joined(about: dict[str, object], blob: bytes) -> bytes:
    text = json.dumps(about, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def write_glb(solid: Textured, path: Path) -> None:
    """Write `glb(solid)`."""
    with replacing(path) as temporary:
        temporary.write_bytes(glb(solid))


def write_obj(solid: Textured, path: Path) -> None:
    """Write a Wavefront OBJ, and beside it its material (.mtl) and its texture (.png)."""
    material, picture = path.with_suffix(".mtl"), path.with_suffix(".png")
    with replacing(picture) as temporary:
        temporary.write_bytes(_png(solid))
    write_text(material, f"newmtl subject\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {picture.name}\n")
    lines = ["# y up, faces +z, metres", f"mtllib {material.name}", "usemtl subject"]
    lines += [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in solid.mesh.vertices.tolist()]
    # OBJ counts the picture from below.
    lines += [f"vt {u:.5f} {1 - v:.5f}" for u, v in solid.places.tolist()]
    lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in solid.mesh.normals().tolist()]
    for corners in solid.faces.tolist():
        lines.append("f " + " ".join(f"{(v := solid.source[c] + 1)}/{c + 1}/{v}" for c in corners))
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


def _png(solid: Textured) -> bytes:
    data = io.BytesIO()
    media.to_image(torch.from_numpy(solid.picture).permute(2, 0, 1)).save(data, "PNG")
    return data.getvalue()


def _target(target: int | None) -> dict[str, int]:
    return {} if target is None else {"target": target}
