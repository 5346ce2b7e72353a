"""From a fine mesh to one that is light and has a texture: fewer triangles, flattened, painted.

Triangles are merged by quadric errors (Garland & Heckbert, SIGGRAPH 1997, https://doi.org/10.1145/258734.258849, as
`fast-simplification` does it) and flattened into charts by `xatlas`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from modalities.three_d.mesh import Mesh
from modalities.three_d.raster import rasterize

# Colours (n, 3) of places (n, 3) on the surface with their outward normals (n, 3).
Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Texels between charts, so that a smaller version of the texture does not mix them.
GUTTER = 4


@dataclass(frozen=True)
class Textured:
    """A mesh with a picture on it.

    Attributes:
        mesh: the surface.
        source: (W,) which vertex of the mesh each corner is; vertices on seams between charts have several corners.
        faces: (T, 3) int32, the mesh's triangles by corners.
        places: (W, 2) float32 in [0, 1], where each corner lies on the picture, from the upper left.
        picture: (side, side, 3) float32 sRGB in [0, 1].
    """

    mesh: Mesh
    source: np.ndarray
    faces: np.ndarray
    places: np.ndarray
    picture: np.ndarray

    def standing(self, size: float = 1.0) -> Textured:
        """The same on the ground y = 0, in the middle, its longest side `size` long."""
        return replace(self, mesh=self.mesh.standing(size))

    def colours_at(self, face: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """The nearest colour of the picture at points of triangles `face` (n,), `shares` (n, 3) between corners."""
        places = (self.places[self.faces[face]] * shares[..., None]).sum(1)
        side = len(self.picture)
        column, row = np.clip((places * side).astype(int), 0, side - 1).T
        return self.picture[row, column]


def decimated(mesh: Mesh, faces: int) -> Mesh:
    """The same shape in about `faces` triangles; in more, or in all of them, where it would not stay closed."""
    import fast_simplification

    wanted = faces
    while wanted < len(mesh.faces):
        vertices, merged = fast_simplification.simplify(mesh.vertices, mesh.faces, target_count=wanted, agg=5)
        fewer = Mesh(vertices.astype(np.float32), merged.astype(np.int32)).separated().largest_part()
        if fewer.is_closed and fewer.volume > 0:
            return fewer
        wanted *= 2
    return mesh


def textured(mesh: Mesh, paint: Paint, side: int) -> Textured:
    """Flatten a mesh into charts, and paint every texel of a `side` x `side` picture that lies on it."""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices, mesh.faces.astype(np.uint32), mesh.normals())
    options = xatlas.PackOptions()
    options.resolution, options.padding = side, GUTTER
    atlas.generate(xatlas.ChartOptions(), options)
    source, faces, places = atlas[0]
    flat = Textured(mesh, source.astype(np.int64), faces.astype(np.int32), places.astype(np.float32), np.zeros(0))
    return replace(flat, picture=_painted(flat, paint, side))


def _painted(flat: Textured, paint: Paint, side: int) -> np.ndarray:
    placed = np.concatenate([flat.places * side, np.ones((len(flat.places), 1))], 1)
    seen = rasterize(torch.from_numpy(placed[flat.faces]), side)
    filled = (seen.face >= 0).numpy()
    corners = flat.source[flat.faces[seen.face.numpy()[filled]]]
    shares = seen.shares.numpy()[filled][..., None]
    points = (flat.mesh.vertices[corners] * shares).sum(1)
    normals = (flat.mesh.normals()[corners] * shares).sum(1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    picture = torch.zeros(side, side, 3)
    picture[filled] = torch.from_numpy(paint(points.astype(np.float32), normals.astype(np.float32))).float()
    return _spread(picture.permute(2, 0, 1), torch.from_numpy(filled)).permute(1, 2, 0).numpy()


def _spread(picture: Float[Tensor, "3 s s"], filled: Tensor) -> Float[Tensor, "3 s s"]:
    """Grow the painted charts into the gaps between them; what is far from all gets their mean colour."""
    picture, known = picture.clone(), filled.float()[None]
    mean = picture[:, filled].mean(1)
    for _ in range(2 * GUTTER):
        total, near = (functional.avg_pool2d(one[None], 3, 1, 1)[0] for one in (picture * known, known))
        grown = (known == 0) & (near > 0)
        picture = torch.where(grown, total / near.clamp(min=1e-6), picture)
        known = torch.maximum(known, grown.float())
    return torch.where(known > 0, picture, mean[:, None, None])
