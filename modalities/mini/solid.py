"""The solid that a subject is: its signed distance field on a grid, and its coloured surface as a mesh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modalities.core.errors import PcsError
from modalities.core.files import replacing
from modalities.mini.parts import bounds
from modalities.mini.world import FIXED_MATERIALS, PATTERNS, Subject

_MARGIN = 0.06


@dataclass(frozen=True)
class Field:
    """Signed distances in subject radii, negative inside.

    values: (n, n, n) float32, indexed [x, y, z]. low, high: corners (3,) float32 of the grid's cube; the first and
    last samples lie on it.
    """

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Mesh:
    """A closed surface. vertices (V, 3) float32, faces (T, 3) int32 seen from outside counter-clockwise, colours
    (V, 3) uint8 sRGB of the bare material.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray


def field_of(subject: Subject, samples: int = 96) -> Field:
    """Sample the distance field of `subject` in a cube around it; y is up, the ground is y = 0, it faces +z."""
    from modalities.mini.raymarch import distances

    table = subject.parts()
    low, high = bounds(table)
    middle, reach = (low + high) / 2, float((high - low).max()) / 2 + _MARGIN
    low, high = middle - reach, middle + reach
    axes = [np.linspace(low[axis], high[axis], samples) for axis in range(3)]
    return Field(distances(table, *axes), low.astype(np.float32), high.astype(np.float32))


def mesh_of(subject: Subject, samples: int = 96) -> Mesh:
    """The surface of `subject` by marching cubes over `samples` points a side, with its colours and pattern.

    Raises:
        PcsError: scikit-image is not installed.
    """
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise PcsError("A mesh needs scikit-image: pip install 'pcs-cli[world]'.") from error
    from modalities.mini.raymarch import materials

    field = field_of(subject, samples)
    spacing = float(field.high[0] - field.low[0]) / (samples - 1)
    found, faces, _normals, _values = marching_cubes(field.values, 0.0, spacing=(spacing,) * 3)
    vertices = found + field.low
    look = (PATTERNS.index(subject.pattern), subject.period)
    painted = materials(subject.parts(), *look, vertices.astype(np.float64))
    colours = np.array([subject.primary_rgb, subject.secondary_rgb, *FIXED_MATERIALS])[painted]
    return Mesh(
        vertices.astype(np.float32), faces.astype(np.int32), (np.clip(colours, 0, 1) * 255 + 0.5).astype(np.uint8)
    )


def write_ply(mesh: Mesh, path: Path) -> None:
    """Write a binary PLY with coloured vertices, which every viewer and mesh library reads."""
    vertex = np.dtype([("position", "<f4", 3), ("colour", "u1", 3)])
    face = np.dtype([("count", "u1"), ("vertices", "<i4", 3)])
    vertices, faces = np.empty(len(mesh.vertices), vertex), np.empty(len(mesh.faces), face)
    vertices["position"], vertices["colour"] = mesh.vertices, mesh.colours
    faces["count"], faces["vertices"] = 3, mesh.faces
    lines = [
        "ply", "format binary_little_endian 1.0",
        f"element vertex {len(vertices)}", *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
        f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header",
    ]  # fmt: skip
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join([*lines, ""]).encode("ascii"))
        file.write(vertices.tobytes())
        file.write(faces.tobytes())


def write_field(field: Field, path: Path) -> None:
    """Write an .npz with `values`, `low` and `high` of the field."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, values=field.values, low=field.low, high=field.high)
