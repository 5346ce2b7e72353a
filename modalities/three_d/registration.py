"""From where photos of a subject were taken, found with a first scene of it and a base that knows words for views.

Every camera of a grid is asked three things: whether the scene has the photo's outline from there, whether it has its
colours there, and whether the base would call the photo by the word for that side. The last is a diffusion classifier
(Li et al., ICCV 2023, https://arxiv.org/abs/2303.16203): of several prompts the one with the least error describes the
picture. Outlines hardly tell the front from the back, and words nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from modalities.core.step import denoise
from modalities.core.studio import Studio
from modalities.three_d.cameras import Views, gap
from modalities.three_d.components.orbit import Orbit
from modalities.three_d.components.view_prompts import ViewPrompts
from modalities.three_d.part import part_of, scene_of
from modalities.three_d.pseudo_views import PseudoViews

AZIMUTHS, ELEVATIONS = 24, (5.0, 15.0, 25.0, 40.0, 55.0, 70.0)
SIDE = 48
# What one is worth of the overlap of outlines and of the mean difference of colours, beside the log of a word's odds.
OUTLINE, COLOUR = 3.0, 6.0
# Shares of the base's times at which it is asked for the word, how often, and the share of the mean error by which two
# words must differ to be told apart.
TIMES, DRAWS, TOLD_APART = (0.4, 0.5, 0.6, 0.7, 0.8), 4, 0.04
SECTORS = {"front": 0.0, "side": 90.0, "back": 180.0}
# Degrees over which the word for above takes over.
OVERHEAD_BLUR = 5.0


@dataclass(frozen=True)
class Cutout:
    """A subject cut out of its photo: `pixels` (3, side, side) in [0, 1], `mask` (side, side), 1 where it is."""

    pixels: Float[Tensor, "3 side side"]
    mask: Float[Tensor, "side side"]


@dataclass(frozen=True)
class Framing:
    """Where N masks stand in their pictures: means `x`, `y` and the root of the area `size`, in half sides."""

    x: Float[Tensor, " n"]
    y: Float[Tensor, " n"]
    size: Float[Tensor, " n"]

    @classmethod
    def of(cls, masks: Float[Tensor, "n side side"]) -> Framing:
        """Measure masks in [0, 1]; an empty one has size near 0."""
        side = masks.shape[-1]
        place = (torch.arange(side, device=masks.device) + 0.5) / side * 2 - 1
        area = masks.sum((1, 2)).clamp(min=1e-6)
        means = (masks.sum(1) * place).sum(1) / area, (masks.sum(2) * place).sum(1) / area
        return cls(*means, (4 * area / side**2).sqrt())

    def enlarged(self, factor: float) -> Framing:
        """The same after the picture is enlarged about its middle."""
        return Framing(self.x * factor, self.y * factor, self.size * factor)

    def __getitem__(self, index: int) -> Framing:
        return Framing(*(part[index : index + 1] for part in (self.x, self.y, self.size)))


def register(
    scene: Studio, prior: Studio, cutouts: Sequence[Cutout], prompt: str, *, as_far: bool = False
) -> PseudoViews:
    """Find the cameras of photos; return them cut out and framed as the scene is from there.

    Args:
        scene: opened by `open_scene`.
        prior: the run that learned the subject, opened to generate.
        cutouts: the photos.
        prompt: what they show, without a word for the view.
        as_far: whether they are enlarged or made smaller, all alike, as if taken from the mean distance of the orbit.
    """
    orbit, words = part_of(scene, Orbit), part_of(scene, ViewPrompts)
    views = _candidates(sum(orbit.distance) / 2, sum(orbit.field_of_view) / 2)
    with torch.no_grad():
        seen = [scene_of(scene).draw(views[n : n + 1], SIDE, background=torch.zeros_like) for n in range(len(views))]
        colours, shapes = torch.cat([one.colours for one in seen]), torch.cat([one.opacity for one in seen])
        framings = Framing.of(shapes)
        chosen = [
            int((_alike(one, colours, shapes, framings) + _expected(words, odds, views)).argmax())
            for one, odds in zip(cutouts, view_odds(prior, cutouts, prompt, words), strict=True)
        ]
        owns = [Framing.of(one.mask[None]) for one in cutouts]
        ratios = [float(framings[best].size / own.size) for best, own in zip(chosen, owns, strict=True)]
        factor = len(ratios) / sum(ratios) if as_far else 1.0
        framed = [
            _framed(one, own, framings[best].enlarged(factor), one.mask.shape[-1])
            for one, own, best in zip(cutouts, owns, chosen, strict=True)
        ]
    pictures, alphas = (torch.cat(part) for part in zip(*framed, strict=True))
    pictures = (pictures / alphas.clamp(min=1e-3)).clamp(0, 1)
    taken = torch.tensor(chosen, device=views.azimuth.device)
    cameras = Views(*(part[taken] for part in (views.azimuth, views.elevation, views.distance, views.field_of_view)))
    return PseudoViews(pictures.cpu(), cameras, (0,) * len(chosen), alphas.cpu())


def view_odds(
    prior: Studio, cutouts: Sequence[Cutout], prompt: str, words: ViewPrompts
) -> Float[Tensor, "photos words"]:
    """Log-probabilities that the base calls each photo by each word for a view, in the order of `words.words`."""
    backbone, every = prior.backbone, prior.backbone.schedule.times
    count, rows = len(TIMES) * DRAWS, list[Tensor]()
    times = every[[int(share * len(every)) for share in TIMES] * DRAWS]
    with torch.no_grad(), prior.sampling():
        for one in cutouts:
            posterior = backbone.encode(one.pixels[None].to(backbone.device))
            # The same noise for every word.
            told = [
                prior.batch(posterior, [0] * count, [prompt + word] * count, range(count), purpose="view word")
                for word in words.words.values()
            ]
            errors = [denoise(backbone, replace(batch, t=times.to(batch.t))).error.mean() for batch in told]
            rows.append(torch.stack(errors).cpu())
    errors = torch.stack(rows)
    return torch.log_softmax(-errors / (TOLD_APART * errors.mean(1, keepdim=True)), 1)


def _candidates(distance: float, field_of_view: float) -> Views:
    around = [360.0 * number / AZIMUTHS for number in range(AZIMUTHS)]
    rows = [Views.of(around, elevation=up, distance=distance, field_of_view=field_of_view) for up in ELEVATIONS]
    return Views(*(torch.cat([getattr(row, name) for row in rows]) for name in Views.__dataclass_fields__))


def _alike(
    one: Cutout, colours: Float[Tensor, "n 3 side side"], shapes: Float[Tensor, "n side side"], framings: Framing
) -> Float[Tensor, " n"]:
    """How well a photo fits the scene from each camera, once it is framed alike."""
    framed, alpha = _framed(one, Framing.of(one.mask[None]), framings, SIDE)
    either = torch.maximum(alpha[:, 0], shapes).sum((1, 2)).clamp(min=1e-6)
    both = torch.minimum(alpha[:, 0], shapes).sum((1, 2))
    return OUTLINE * both / either - COLOUR * (framed - colours).abs().mean(1).sum((1, 2)) / either


def _framed(
    one: Cutout, own: Framing, wanted: Framing, side: int
) -> tuple[Float[Tensor, "n 3 side side"], Float[Tensor, "n 1 side side"]]:
    """A cutout over black, moved and enlarged from its `own` framing to each of the `wanted`, and its mask."""
    place = (torch.arange(side, device=one.mask.device) + 0.5) / side * 2 - 1
    down, across = torch.meshgrid(place, place, indexing="ij")
    scale = (own.size / wanted.size)[:, None, None]
    there = [(at[None] - to[:, None, None]) * scale + start for at, to, start in (
        (across, wanted.x, own.x), (down, wanted.y, own.y)
    )]  # fmt: skip
    layers = torch.cat([one.pixels * one.mask, one.mask[None]])[None].expand(len(wanted.size), -1, -1, -1)
    moved = functional.grid_sample(layers, torch.stack(there, -1), align_corners=False, padding_mode="zeros")
    return moved[:, :3], moved[:, 3:]


def _expected(words: ViewPrompts, odds: Float[Tensor, " words"], views: Views) -> Float[Tensor, " n"]:
    """The log of how well each camera goes with the words: a word fades with the angle from where it is meant."""
    off = torch.tensor([gap(azimuth, 0.0) for azimuth in views.azimuth.tolist()])
    reaches = {"front": words.front, "side": words.side, "back": words.back}
    near = torch.stack([torch.exp(-(((off - at) / reaches[name]) ** 2)) for name, at in SECTORS.items()], 1)
    above = torch.sigmoid((views.elevation.cpu() - words.overhead) / OVERHEAD_BLUR)
    share = near / near.sum(1, keepdim=True) * (1 - above)[:, None]
    meant = dict(zip(SECTORS, share.unbind(1), strict=True)) | {"overhead": above}
    chances = dict(zip(words.words, odds.exp(), strict=True))
    return sum(chances[name] * meant[name] for name in chances).clamp(min=1e-9).log()  # pyright: ignore
