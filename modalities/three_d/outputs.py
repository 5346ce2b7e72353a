"""What a finished scene is handed over as: a turntable, a contact sheet, a mesh, points, and a page with a viewer."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from modalities.core import media
from modalities.core.artifact import Artifact
from modalities.core.files import replacing
from modalities.core.report import contact_sheet
from modalities.core.studio import Studio
from modalities.three_d.cameras import Views, turntable
from modalities.three_d.components.orbit import Orbit
from modalities.three_d.components.surroundings import Surroundings
from modalities.three_d.mesh_files import write_glb, write_obj, write_points
from modalities.three_d.page import write_page
from modalities.three_d.part import part_of, scene_of
from modalities.three_d.pseudo_views import PseudoViews
from modalities.three_d.raster import rasterize
from modalities.three_d.texture import Textured, decimated, textured

FRAMES, SIDE, SHEET_VIEWS, POINTS, CELLS, FACES = 24, 128, 8, 20_000, 96, 10_000
TEXELS_PER_CELL = 5
FRAMES_PER_SECOND = 12


@dataclass(frozen=True)
class Handed:
    """The files of a scene."""

    turntable: Path
    film: Path
    sheet: Path
    glb: Path
    obj: Path
    points: Path
    page: Path


def around(studio: Studio, count: int) -> Views:
    """`count` cameras around the scene, at the middle of what the recipe's cameras saw."""
    orbit = part_of(studio, Orbit)
    distance, field_of_view = (sum(span) / 2 for span in (orbit.distance, orbit.field_of_view))
    return turntable(count, elevation=15.0, distance=distance, field_of_view=field_of_view)


@torch.no_grad()
def pictures(studio: Studio, views: Views, side: int, *, place: int | None = None) -> Float[Tensor, "n 3 side side"]:
    """The scene from each of `views`, over white or in front of place number `place`, on the CPU."""
    behind = None if place is None else part_of(studio, Surroundings).place(place)
    return scene_of(studio).portray(views, side, behind)


def rendered_views(studio: Studio, count: int = SHEET_VIEWS * 3) -> PseudoViews:
    """`count` pictures of the scene over white with their cameras, at the base's resolution."""
    views = around(studio, count)
    return PseudoViews(pictures(studio, views, studio.resolution), views, (0,) * count)


def write_turntable(studio: Studio, folder: Path, *, frames: int, side: int) -> tuple[Path, Path]:
    """Write turntable.gif and turntable.mp4."""
    images = [media.to_image(one) for one in pictures(studio, around(studio, frames), side)]
    path = folder / "turntable.gif"
    media.save_gif(images, path, FRAMES_PER_SECOND)
    return path, _film(images, folder / "turntable.mp4")


def solid_of(studio: Studio, *, cells: int, faces: int, size: float = 1.0) -> Textured:
    """The scene as a closed mesh of about `faces` triangles with a texture, standing, its longest side `size` metres.

    Raises:
        RunFailed: the scene is empty.
    """
    scene = scene_of(studio)
    fine = scene.mesh(cells)
    side = 2 ** math.ceil(math.log2(TEXELS_PER_CELL * cells))
    return textured(decimated(fine, faces), scene.paint, side).standing(size)


def write_solid(solid: Textured, folder: Path, form: str | None = None) -> list[Path]:
    """Write mesh.glb, mesh.obj with its .mtl and .png, and points.ply, or only the file whose ending is `form`."""
    written: list[Path] = []
    for name, write in WRITERS.items():
        if form is None or name.endswith(form):
            write(solid, folder / name)
            written.append(folder / name)
    return written


def _write_points(solid: Textured, path: Path) -> None:
    where = solid.mesh.scattered(POINTS)
    write_points(solid.mesh.points(*where), solid.colours_at(*where), path)


WRITERS: dict[str, Callable[[Textured, Path], None]] = {
    "mesh.glb": write_glb,
    "mesh.obj": write_obj,
    "points.ply": _write_points,
}


def write_all(studio: Studio, run: Artifact, photos: Sequence[Image.Image] = ()) -> Handed:
    """Write everything into the run folder.

    Raises:
        RunFailed: the scene is empty.
    """
    gif, film = write_turntable(studio, run.folder, frames=FRAMES, side=SIDE)
    seen = pictures(studio, around(studio, SHEET_VIEWS), SIDE)
    rows = [("the photos", list(photos[:SHEET_VIEWS]))] if photos else []
    rows.append((f"{studio.concept.phrase} all around, from the front on", [media.to_image(one) for one in seen]))
    solid = solid_of(studio, cells=CELLS, faces=FACES)
    write_solid(solid, run.folder)
    rows.append(("its mesh", [media.to_image(one) for one in shaded(solid, around(studio, SHEET_VIEWS), SIDE)]))
    media.save_png(contact_sheet(rows), run.contact_sheet)
    glb, title = run.folder / "mesh.glb", f"{studio.concept.phrase}: {studio.recipe.title}"
    recipe = studio.recipe.dump()
    write_page(run.report, title, glb=glb, turntable=gif, sheet=run.contact_sheet, recipe=recipe)
    return Handed(gif, film, run.contact_sheet, glb, run.folder / "mesh.obj", run.folder / "points.ply", run.report)


def shaded(solid: Textured, views: Views, side: int) -> Float[Tensor, "n 3 side side"]:
    """The mesh itself with its texture over white, lit from the camera."""
    low, high = solid.mesh.vertices.min(0), solid.mesh.vertices.max(0)
    placed = torch.from_numpy((solid.mesh.vertices - (low + high) / 2) / float((high - low).max()) * 1.7)
    normals, faces = torch.from_numpy(solid.mesh.normals()), torch.from_numpy(solid.mesh.faces).long()
    images = []
    for flat, axes in zip(views.project(placed, 2 * side), views.axes(), strict=True):
        seen = rasterize(flat[faces], 2 * side)
        there = seen.face >= 0
        face, shares = seen.face[there], seen.shares[there]
        facing = functional.normalize((normals[faces[face]] * shares[..., None]).sum(1), dim=1) @ axes[2]
        colours = torch.from_numpy(solid.colours_at(face.numpy(), shares.numpy()))
        image = torch.ones(2 * side, 2 * side, 3)
        image[there] = colours * (0.65 + 0.35 * facing.clamp(min=0))[:, None]
        images.append(functional.avg_pool2d(image.permute(2, 0, 1), 2))
    return torch.stack(images)


def _film(images: list[Image.Image], path: Path) -> Path:
    """Write an H.264 film that every browser plays."""
    from imageio_ffmpeg import get_ffmpeg_exe

    # H.264 wants even sides.
    width, height = (side + side % 2 for side in images[0].size)
    padded = [ImageOps.expand(image, (0, 0, width - image.width, height - image.height), "white") for image in images]
    with replacing(path) as temporary:
        command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", str(FRAMES_PER_SECOND), "-i", "-", "-c:v", "libx264"]
        command += ["-pix_fmt", "yuv420p", "-crf", "18", "-bitexact", "-threads", "1", str(temporary)]
        subprocess.run(command, input=b"".join(image.tobytes() for image in padded), check=True)
    return path
