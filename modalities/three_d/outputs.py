"""What a finished scene is handed over as: a turntable, a contact sheet, a mesh, points, and a page with a viewer."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from modalities.core import media
from modalities.core.artifact import Artifact
from modalities.core.files import replacing
from modalities.core.report import contact_sheet
from modalities.core.studio import Studio
from modalities.three_d.cameras import Views, turntable
from modalities.three_d.components.nerf import Nerf
from modalities.three_d.components.orbit import Orbit
from modalities.three_d.components.surroundings import Surroundings
from modalities.three_d.mesh import Mesh
from modalities.three_d.mesh_files import write_glb, write_obj, write_points
from modalities.three_d.page import write_page
from modalities.three_d.part import part_of
from modalities.three_d.pseudo_views import PseudoViews
from modalities.three_d.shape import mesh_of, occupied_cells, points_of

FRAMES, SIDE, SHEET_VIEWS, SAMPLES, POINTS, CELLS = 24, 128, 8, 96, 20_000, 96
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
    nerf = part_of(studio, Nerf)
    behind = None if place is None else part_of(studio, Surroundings).place(place)
    occupied = occupied_cells(nerf.field)
    seen = [
        nerf.draw(views[n : n + 1], side, background=behind, occupied=occupied, samples=SAMPLES).colours.cpu()
        for n in range(len(views))
    ]
    return torch.cat(seen)


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


def write_mesh(studio: Studio, folder: Path, *, cells: int, size: float = 1.0) -> Mesh:
    """Write mesh.glb, mesh.obj and points.ply, standing on the ground, the longest side `size` metres.

    Raises:
        RunFailed: the scene is empty.
    """
    mesh = mesh_of(part_of(studio, Nerf).field, cells).standing(size)
    write_glb(mesh, folder / "mesh.glb")
    write_obj(mesh, folder / "mesh.obj")
    write_points(*points_of(mesh, POINTS), folder / "points.ply")
    return mesh


def write_all(studio: Studio, run: Artifact, photos: Sequence[Image.Image] = ()) -> Handed:
    """Write everything into the run folder.

    Raises:
        RunFailed: the scene is empty.
    """
    gif, film = write_turntable(studio, run.folder, frames=FRAMES, side=SIDE)
    seen = pictures(studio, around(studio, SHEET_VIEWS), SIDE)
    rows = [("the photos", list(photos[:SHEET_VIEWS]))] if photos else []
    rows.append((f"{studio.concept.phrase} all around, from the front on", [media.to_image(one) for one in seen]))
    mesh = write_mesh(studio, run.folder, cells=CELLS)
    rows.append(("its mesh", [media.to_image(one) for one in shaded(mesh, around(studio, SHEET_VIEWS), SIDE)]))
    media.save_png(contact_sheet(rows), run.contact_sheet)
    glb, title = run.folder / "mesh.glb", f"{studio.concept.phrase}: {studio.recipe.title}"
    recipe = studio.recipe.dump()
    write_page(run.report, title, glb=glb, turntable=gif, sheet=run.contact_sheet, recipe=recipe)
    return Handed(gif, film, run.contact_sheet, glb, run.folder / "mesh.obj", run.folder / "points.ply", run.report)


def shaded(mesh: Mesh, views: Views, side: int) -> Float[Tensor, "n 3 side side"]:
    """The mesh itself over white, lit from the camera: its vertices, splatted, nearest last."""
    points, colours = points_of(mesh, 40 * side * side)
    low, high = points.min(0), points.max(0)
    placed = torch.from_numpy((points - (low + high) / 2) / float((high - low).max()) * 1.7)
    images = []
    for axes, distance, field_of_view in zip(views.axes(), views.distance, views.field_of_view, strict=True):
        local = placed @ axes.T
        depth = distance - local[:, 2]
        reach = (field_of_view.deg2rad() / 2).tan()
        across, up = local[:, 0] / depth / reach, local[:, 1] / depth / reach
        column, row = ((across + 1) / 2 * side).long(), ((1 - up) / 2 * side).long()
        inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
        order = depth[inside].argsort(descending=True, stable=True)
        cell = (row * side + column)[inside][order]
        image = torch.ones(side * side, 3)
        last = torch.full((side * side,), -1, dtype=torch.long)
        last.scatter_reduce_(0, cell, torch.arange(len(cell)), "amax")
        filled = last >= 0
        image[filled] = torch.from_numpy(colours)[inside][order][last[filled]]
        images.append(image.T.view(3, side, side))
    return torch.stack(images)


def _film(images: list[Image.Image], path: Path) -> Path:
    """Write an H.264 film that every browser plays."""
    from imageio_ffmpeg import get_ffmpeg_exe

    width, height = images[0].size
    with replacing(path) as temporary:
        command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", str(FRAMES_PER_SECOND), "-i", "-", "-c:v", "libx264"]
        command += ["-pix_fmt", "yuv420p", "-crf", "18", "-bitexact", "-threads", "1", str(temporary)]
        subprocess.run(command, input=b"".join(image.tobytes() for image in images), check=True)
    return path
