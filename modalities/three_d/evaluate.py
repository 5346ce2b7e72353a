"""How good a scene is: likeness by azimuth, whether it has one face, and, where the true shape is known, its shape.

The true shape is read from `subject.npz`, a signed distance field, and true pictures from `views/`, a dataset, as
`pcs world subject --solid` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from modalities.core import media
from modalities.core.concept import Concept
from modalities.core.encoders import ImageEncoder, TextImageEncoder
from modalities.core.errors import PcsError
from modalities.core.studio import Studio
from modalities.three_d.cameras import Views, gap, turntable
from modalities.three_d.components.view_prompts import SECTORS, ViewPrompts
from modalities.three_d.mesh import Mesh, isosurface
from modalities.three_d.outputs import around, pictures
from modalities.three_d.part import part_of, scene_of
from modalities.three_d.pseudo_views import PseudoViews
from modalities.three_d.raster import rasterize
from modalities.three_d.shape import grid_points

if TYPE_CHECKING:
    from modalities.mini.world import Subject

VIEWS, CELLS, MESH_CELLS, POINTS, SIDE = 24, 64, 96, 4000, 96
# True pictures that no run has seen.
HELD_OUT, HELD_OUT_SIDE = 12, 64
# What else the subject might be called: the fifteen classes of the mini world, everyday words for any encoder.
OTHER_NOUNS = (
    "mug", "teapot", "car", "robot", "chair", "house", "duck", "snowman", "bear", "lamp", "backpack", "dog", "cat",
    "sneaker", "clock",
)  # fmt: skip


@dataclass(frozen=True)
class SceneScores:
    """What was measured; NaN or None where nothing can be said.

    Attributes:
        likeness: cosine of every render to its most similar photo, mean by sector (front, side, back) and over all.
        ceiling: the same of every photo to the most similar other one.
        floor: the same of every photo to the most similar one of another subject.
        view_words: share of the renders near front, side and back for which the text-image encoder names that view.
        precision: CLIP R-precision (Park et al., NeurIPS 2021): share of the renders for which the text-image encoder
            finds the prompt with the subject's class among the same prompt with each of the `OTHER_NOUNS`.
        among: how many prompts those are; chance would find one in so many.
        opposite: mean cosine of a render to the one from the other side, and of neighbours 15 degrees apart; a
            subject with a face on both sides has an `opposite` near its `neighbour`.
        iou, chamfer: against the true shape: overlap of volumes, and the mean distance of both surfaces to each other
            in half sides of the cube; as it stands, neither turned nor scaled.
        outlines: overlap of both outlines, mean over the turntable; also tells something of hollow subjects.
        psnr: of renders over white against true pictures from cameras of which no photo was taken, mean in dB.
    """

    likeness: dict[str, float]
    ceiling: float | None
    floor: float | None
    view_words: float
    precision: float
    among: int
    opposite: float
    neighbour: float
    iou: float | None
    chamfer: float | None
    outlines: float | None
    psnr: float | None

    def told(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def evaluate(
    scene: Studio,
    photos: Sequence[Image.Image],
    encoders: tuple[ImageEncoder, TextImageEncoder],
    truth: Path | None = None,
    others: Sequence[Image.Image] = (),
) -> SceneScores:
    """Measure a scene.

    Args:
        scene: opened by `open_scene`.
        photos: of the subject; may be empty.
        encoders: for likeness, and for words.
        truth: `subject.npz`, if the true shape is known; true pictures may lie in `views/` beside it.
        others: photos of another subject.

    Raises:
        RunFailed: the scene is empty.
        PcsError: the truth cannot be read.
    """
    views = around(scene, VIEWS)
    drawn = [media.to_image(one) for one in pictures(scene, views, scene.resolution, place=0)]
    azimuths = views.azimuth.tolist()
    subject = encoders[0](drawn)
    turned = [(subject * subject.roll(shift, 0)).sum(1).mean() for shift in (VIEWS // 2, 1)]
    iou, chamfer, outlines = (None, None, None) if truth is None else _against(truth, scene, views)
    likeness, ceiling, floor = _likeness(subject, encoders[0], photos, others, azimuths)
    held_out = None if truth is None else truth.parent / "views"
    described, prompts = encoders[1](drawn), prompts_for(scene)
    return SceneScores(
        likeness=likeness,
        ceiling=ceiling,
        floor=floor,
        view_words=_named_right(scene, encoders[1], described, azimuths),
        precision=float(((described @ encoders[1].text(prompts).T).argmax(1) == 0).float().mean()),
        among=len(prompts),
        opposite=float(turned[0]),
        neighbour=float(turned[1]),
        iou=iou,
        chamfer=chamfer,
        outlines=outlines,
        psnr=held_out_psnr(scene, PseudoViews.read(held_out)) if held_out and held_out.is_dir() else None,
    )


def true_views(subject: Subject) -> PseudoViews:
    """What a subject of the mini world truly looks like from all around, cut out: 12 views of 64 x 64 pixels."""
    from modalities.mini.world import Camera, Scene, render

    views = turntable(HELD_OUT, elevation=20.0)
    columns = zip(views.azimuth.tolist(), views.elevation.tolist(), views.distance.tolist(), strict=True)
    drawn = [render(Scene(subject, "blue studio", Camera(*one)), HELD_OUT_SIDE) for one in columns]
    seen, masks = (torch.from_numpy(np.stack([getattr(one, part) for one in drawn])) for part in ("image", "mask"))
    return PseudoViews(seen.permute(0, 3, 1, 2) / 255, views, (0,) * HELD_OUT, masks[:, None] / 255)


def held_out_psnr(scene: Studio, true: PseudoViews) -> float:
    """Peak signal-to-noise ratio of a scene over white against cut-out pictures, their mean in dB, at most 100."""
    assert true.alphas is not None
    wanted = true.pictures * true.alphas + 1 - true.alphas
    seen = scene_of(scene).portray(true.views, wanted.shape[-1])
    return float((-10 * (seen - wanted).square().mean((1, 2, 3)).clamp(min=1e-10).log10()).mean())


def _likeness(
    drawn: Tensor,
    encoder: ImageEncoder,
    photos: Sequence[Image.Image],
    others: Sequence[Image.Image],
    azimuths: list[float],
) -> tuple[dict[str, float], float | None, float | None]:
    """`likeness`, `ceiling` and `floor` of `SceneScores`; `drawn` are the features of the renders at `azimuths`."""
    if not photos:
        return {}, None, None
    known = encoder(list(photos))
    best = (drawn @ known.T).amax(1)
    sectors = {
        name: best[torch.tensor([abs(gap(one, 0.0) - at) <= 45 for one in azimuths])] for name, at in SECTORS.items()
    }
    among = known @ known.T - 2 * torch.eye(len(known))
    ceiling = float(among.amax(1).mean()) if len(known) > 1 else None
    floor = float((known @ encoder(list(others)).T).amax(1).mean()) if others else None
    return (
        {name: float(values.mean()) for name, values in sectors.items()} | {"all": float(best.mean())},
        ceiling,
        floor,
    )


def prompts_for(scene: Studio) -> list[str]:
    """The prompt that names the subject's class first, then those that name something else in its place."""
    noun, template = scene.concept.noun, scene.recipe.data.prompts[0]
    others = [Concept(one, one).class_prompt(template) for one in OTHER_NOUNS if one != noun]
    return [scene.concept.class_prompt(template), *others]


def _named_right(scene: Studio, encoder: TextImageEncoder, described: Tensor, azimuths: list[float]) -> float:
    """Share of the renders within 30 degrees of front, side or back whose view the encoder names."""
    words = part_of(scene, ViewPrompts).words
    prompt = scene.concept.class_prompt(scene.recipe.data.prompts[0])
    seen = described @ encoder.text([prompt + words[name] for name in SECTORS]).T
    right = [
        list(SECTORS)[int(row.argmax())] == name
        for row, azimuth in zip(seen, azimuths, strict=True)
        for name, at in SECTORS.items()
        if abs(gap(azimuth, 0.0) - at) <= 30
    ]
    return sum(right) / len(right)


def _against(truth: Path, scene: Studio, views: Views) -> tuple[float, float, float]:
    solid, made = TrueShape.read(truth), scene_of(scene)
    inside, found = solid.contains(grid_points(CELLS)).view(CELLS, CELLS, CELLS), made.solid(CELLS)
    iou = float((inside & found).sum() / (inside | found).sum())
    mesh = made.mesh(MESH_CELLS)
    surface = torch.from_numpy(mesh.points(*mesh.scattered(POINTS)))
    apart = torch.cdist(surface, solid.surface(POINTS))
    return iou, float(apart.amin(1).mean() + apart.amin(0).mean()) / 2, outlines_overlap(mesh, solid.mesh(), views)


def outlines_overlap(one: Mesh, other: Mesh, views: Views) -> float:
    """Intersection over union of what two meshes cover of the picture, mean over `views`."""
    covered = [
        [
            rasterize(flat[torch.from_numpy(mesh.faces).long()], SIDE).face >= 0
            for flat in views.project(torch.from_numpy(mesh.vertices), SIDE)
        ]
        for mesh in (one, other)
    ]
    shares = [float((a & b).sum() / (a | b).sum().clamp(min=1)) for a, b in zip(*covered, strict=True)]
    return sum(shares) / len(shares)


@dataclass(frozen=True)
class TrueShape:
    """Signed distances on a grid, in the scene's own frame: the middle of the subject's height is the origin.

    values: (n, n, n), negative inside. low, high: corners of the grid.
    """

    values: Float[Tensor, "n n n"]
    low: Float[Tensor, " 3"]
    high: Float[Tensor, " 3"]

    @classmethod
    def read(cls, path: Path) -> TrueShape:
        """Read `values`, `low` and `high`, of a subject that stands on y = 0.

        Raises:
            PcsError: the file holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                values, low, high = (torch.from_numpy(stored[name]).float() for name in ("values", "low", "high"))
        except (OSError, ValueError, KeyError) as error:
            raise PcsError(f"{path}: is no distance field of `pcs world subject --solid` ({error}).") from error
        rows = (values < 0).any(2).any(0).nonzero().flatten()
        top = float(low[1] + (high[1] - low[1]) * rows.max() / (len(values) - 1))
        middle = torch.tensor([0.0, top / 2, 0.0])
        return cls(values, low - middle, high - middle)

    def distances(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Signed distances at `points`; outside the grid those of its border."""
        place = (points - self.low) / (self.high - self.low) * 2 - 1
        found = functional.grid_sample(
            self.values[None, None], place.flip(-1)[None, None, None], align_corners=True, padding_mode="border"
        )
        return found.flatten()

    def contains(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Which points are inside."""
        return (self.distances(points) < 0) & ((points >= self.low) & (points <= self.high)).all(1)

    def mesh(self) -> Mesh:
        """Its surface."""
        vertices, faces = isosurface(-self.values.numpy(), 0.0)
        scale = (self.high - self.low).numpy() / (len(self.values) - 1)
        return Mesh((vertices * scale + self.low.numpy()).astype(np.float32), faces)

    def surface(self, count: int) -> Float[Tensor, "n 3"]:
        """About `count` points on the surface."""
        generator = torch.Generator().manual_seed(0)
        points = self.low + torch.rand(60 * count, 3, generator=generator) * (self.high - self.low)
        return points[self.distances(points).abs().argsort()[:count]]
