"""A closed surface from densities by marching tetrahedra (Doi & Koide 1991): no table of cases, no holes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

# A cube's corners as bits (x, y, z), and the six tetrahedra around its diagonal; neighbours share their faces.
CORNERS = np.array([(n & 1, n >> 1 & 1, n >> 2 & 1) for n in range(8)])
TETRAHEDRA = np.array([(0, 1, 3, 7), (0, 3, 2, 7), (0, 2, 6, 7), (0, 6, 4, 7), (0, 4, 5, 7), (0, 5, 1, 7)])


@dataclass(frozen=True)
class Mesh:
    """A surface. vertices (V, 3) float32, y up, facing +z; faces (T, 3) int32, counter-clockwise from outside."""

    vertices: np.ndarray
    faces: np.ndarray

    @property
    def volume(self) -> float:
        """What it encloses; positive when the faces look outwards."""
        a, b, c = (self.vertices[self.faces[:, corner]].astype(np.float64) for corner in range(3))
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)

    @property
    def is_closed(self) -> bool:
        """Whether every edge has exactly two faces, which run along it in opposite directions."""
        along, back = self._edges()
        return len(np.unique(along)) == len(along) and bool(np.isin(back, along).all())

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every face its three edges as numbers, (3 T,), and the numbers of the same edges the other way."""
        start, end = self.faces.T.flatten().astype(np.int64), np.roll(self.faces, -1, 1).T.flatten()
        return start * len(self.vertices) + end, end * np.int64(len(self.vertices)) + start

    def separated(self) -> Mesh:
        """The same surface with no edge in more than two faces: where sheets share one, each gets its own."""
        mesh = self._without_flaps()
        while True:
            along, back = mesh._edges()
            numbers, counts = np.unique(along, return_counts=True)
            shared = numbers[(counts > 1) & np.isin(numbers, back)]
            if not len(shared):
                return mesh
            # One face along the edge and one that comes back get a vertex in its middle.
            edge, middle = divmod(int(shared[0]), len(mesh.vertices)), len(mesh.vertices)
            vertices = np.concatenate([mesh.vertices, mesh.vertices[list(edge)].mean(0, keepdims=True)])
            faces = mesh.faces.copy()
            for number, (start, end) in ((along, edge), (back, edge[::-1])):
                face = int((number == shared[0]).argmax()) % len(mesh.faces)
                apex = faces[face].sum() - start - end
                faces[face] = start, middle, apex
                faces = np.concatenate([faces, np.array([[middle, end, apex]], np.int32)])
            mesh = Mesh(vertices, faces)

    def _without_flaps(self) -> Mesh:
        """The same without pairs of faces that have the same corners and look in opposite directions."""
        kept: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, face in enumerate(self.faces.tolist()):
            first = face.index(min(face))
            one, two, three = face[first:] + face[:first]
            if kept[one, three, two]:
                kept[one, three, two].pop()
            else:
                kept[one, two, three].append(number)
        return replace(self, faces=self.faces[sorted(chain.from_iterable(kept.values()))])

    def normals(self) -> np.ndarray:
        """Outward unit normals at the vertices, (V, 3) float32, weighed by area."""
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        across = np.cross(b - a, c - a)
        summed = np.zeros_like(self.vertices)
        for corner in range(3):
            np.add.at(summed, self.faces[:, corner], across)
        return (summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)).astype(np.float32)

    def largest_part(self) -> Mesh:
        """The connected piece with most faces, alone."""
        label = np.arange(len(self.vertices))
        while True:
            least = label[self.faces].min(1)
            new = label.copy()
            for corner in range(3):
                np.minimum.at(new, self.faces[:, corner], least)
            new = new[new]
            if (new == label).all():
                break
            label = new
        of_face = label[self.faces[:, 0]]
        names, counts = np.unique(of_face, return_counts=True)
        faces = self.faces[of_face == names[counts.argmax()]]
        used, flat = np.unique(faces, return_inverse=True)
        return Mesh(self.vertices[used], flat.reshape(-1, 3).astype(np.int32))

    def scattered(self, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """`count` places spread evenly over the surface: their triangles (count,) and corner shares (count, 3)."""
        rng = np.random.default_rng(seed)
        a, b, c = (self.vertices[self.faces[:, corner]].astype(np.float64) for corner in range(3))
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        chosen = rng.choice(len(area), size=count, p=area / area.sum())
        across, along = np.sqrt(rng.random(count)), rng.random(count)
        return chosen, np.stack([1 - across, across * (1 - along), across * along], 1)

    def points(self, face: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Where places on triangles `face` (n,), `shares` (n, 3) between their corners, lie: (n, 3) float32."""
        return (self.vertices[self.faces[face]] * shares[..., None]).sum(1).astype(np.float32)

    def standing(self, size: float = 1.0) -> Mesh:
        """The same on the ground y = 0, in the middle, its longest side `size` long."""
        low, high = self.vertices.min(0), self.vertices.max(0)
        middle = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
        scale = size / float((high - low).max())
        return replace(self, vertices=((self.vertices - middle) * scale).astype(np.float32))


def isosurface(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The surface where `values` (n, n, n) falls below `level`, in cells; values on the border count as below.

    Returns vertices (V, 3) float32 in grid coordinates and faces (T, 3) int32, counter-clockwise from outside; both
    empty if nothing is above.
    """
    grid = values.copy()
    edges, faces = crossed_edges(grid, level)
    return _crossings(edges, grid.ravel(), level, np.array(grid.shape)), faces


def crossed_edges(grid: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each vertex of that surface the edge it lies on (V, 2), as flat numbers of two grid points; and the faces.

    The border of `grid` is lowered below `level` in place.
    """
    lowest = level - 0.5 * abs(level) - 1e-3
    for axis in range(3):
        edge = np.moveaxis(grid, axis, 0)
        edge[0], edge[-1] = np.minimum(edge[0], lowest), np.minimum(edge[-1], lowest)
    side = np.array(grid.shape)
    strides = np.array([side[1] * side[2], side[2], 1])
    inside = grid > level
    mixed = np.zeros(side - 1, int)
    for corner in CORNERS:
        mixed += inside[tuple(slice(c, s - 1 + c) for c, s in zip(corner, side, strict=True))]
    cells = np.argwhere((mixed > 0) & (mixed < 8))
    corners = cells @ strides
    ids = corners[:, None] + CORNERS @ strides
    tetrahedra = ids[:, TETRAHEDRA].reshape(-1, 4)
    flat = grid.ravel()
    return _triangles(tetrahedra, flat[tetrahedra] > level, flat, level, side)


def _triangles(
    tetrahedra: np.ndarray, inside: np.ndarray, flat: np.ndarray, level: float, side: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut every tetrahedron: a triangle where one corner differs from three, two where two differ from two."""
    count = inside.sum(1)
    edges: list[np.ndarray] = []
    towards: list[np.ndarray] = []
    for one in (1, 3):
        chosen = count == one
        # The corner that is alone comes first.
        order = np.argsort(inside[chosen] == (one != 1), axis=1, kind="stable")
        t = np.take_along_axis(tetrahedra[chosen], order, 1)
        edges.append(np.stack([t[:, [0, k]] for k in (1, 2, 3)], 1))
        towards.append(_outwards(t, np.take_along_axis(inside[chosen], order, 1), side))
    chosen = count == 2
    order = np.argsort(~inside[chosen], axis=1, kind="stable")
    t = np.take_along_axis(tetrahedra[chosen], order, 1)
    out = _outwards(t, np.take_along_axis(inside[chosen], order, 1), side)
    square = [t[:, pair] for pair in ([0, 2], [0, 3], [1, 3], [1, 2])]
    for three in ((0, 1, 2), (0, 2, 3)):
        edges.append(np.stack([square[k] for k in three], 1))
        towards.append(out)
    all_edges, out = np.sort(np.concatenate(edges), axis=-1), np.concatenate(towards)
    unique, faces = np.unique(all_edges.reshape(-1, 2), axis=0, return_inverse=True)
    faces = faces.reshape(-1, 3)
    vertices = _crossings(unique, flat, level, side)
    return unique, _turned_outwards(vertices, faces, out).astype(np.int32)


def _places(ids: np.ndarray, side: np.ndarray) -> np.ndarray:
    return np.stack(np.unravel_index(ids, tuple(side)), -1).astype(np.float64)


def _outwards(tetrahedra: np.ndarray, inside: np.ndarray, side: np.ndarray) -> np.ndarray:
    """From the inner corners of each tetrahedron to its outer ones, (n, 3)."""
    places, inner = _places(tetrahedra, side), inside[..., None].astype(float)
    return (places * (1 - inner)).sum(1) / (1 - inner).sum(1) - (places * inner).sum(1) / inner.sum(1)


def _crossings(edges: np.ndarray, flat: np.ndarray, level: float, side: np.ndarray) -> np.ndarray:
    a, b = flat[edges[:, 0]].astype(np.float64), flat[edges[:, 1]].astype(np.float64)
    share = np.clip((level - a) / (b - a), 0.02, 0.98)[:, None]
    first, second = _places(edges[:, 0], side), _places(edges[:, 1], side)
    return (first + share * (second - first)).astype(np.float32)


def _turned_outwards(vertices: np.ndarray, faces: np.ndarray, out: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    wrong = np.einsum("ij,ij->i", np.cross(b - a, c - a), out) < 0
    faces = faces.copy()
    faces[wrong] = faces[wrong][:, [0, 2, 1]]
    return faces
