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

from modalities.core import media
from modalities.core.concept import Concept
from modalities.core.media import MaskSource
from modalities.core.progress import Progress
from modalities.core.step import denoise
from modalities.core.studio import Studio
from modalities.core.subject_mask import mask_of
from modalities.three_d.cameras import Views
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


@dataclass(frozen=True)
class Cutout:
    """A subject cut out of its photo: `pixels` (3, side, side) in [0, 1], `mask` (side, side), 1 where it is."""

    pixels: Float[Tensor, "3 side side"]
    mask: Float[Tensor, "side side"]

    def framed(
        self, wanted: Framing, side: int
    ) -> tuple[Float[Tensor, "n 3 side side"], Float[Tensor, "n 1 side side"]]:
        """The subject over black, moved and enlarged to each of the n `wanted` framings, and its mask."""
        place, own = _places(side, self.mask.device), Framing.of(self.mask[None])
        down, across = torch.meshgrid(place, place, indexing="ij")
        scale = (own.size / wanted.size)[:, None, None]
        there = [
            (at[None] - to[:, None, None]) * scale + start
            for at, to, start in ((across, wanted.x, own.x), (down, wanted.y, own.y))
        ]
        layers = torch.cat([self.pixels * self.mask, self.mask[None]])[None].expand(len(wanted.size), -1, -1, -1)
        moved = functional.grid_sample(layers, torch.stack(there, -1), align_corners=False, padding_mode="zeros")
        return moved[:, :3], moved[:, 3:]


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
        place = _places(side, masks.device)
        area = masks.sum((1, 2)).clamp(min=1e-6)
        means = (masks.sum(1) * place).sum(1) / area, (masks.sum(2) * place).sum(1) / area
        return cls(*means, (4 * area / side**2).sqrt())

    def enlarged(self, factor: float) -> Framing:
        """The same after the picture is enlarged about its middle."""
        return Framing(self.x * factor, self.y * factor, self.size * factor)

    def __getitem__(self, index: int) -> Framing:
        return Framing(*(part[index : index + 1] for part in (self.x, self.y, self.size)))


def cut_out(studio: Studio, concept: Concept, source: MaskSource, progress: Progress) -> list[Cutout]:
    """The subject of each of its photos, by masks from `source`, see `subject_mask.masks`; `studio` has the bare base.

    Raises:
        PcsError: a photo has no mask.
    """
    cutouts = list[Cutout]()
    progress.start("photos", len(concept.photos))
    for photo in concept.photos:
        mask = mask_of(studio, photo, concept.noun, source)
        cutouts.append(Cutout(media.square(photo.open(), studio.resolution), mask[0].cpu()))
        progress.advance()
    return cutouts


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
        colours, shapes = (torch.cat([getattr(one, part).cpu() for one in seen]) for part in ("colours", "opacity"))
        framings, shares = Framing.of(shapes), words.shares(views)
        chosen = [
            int((_alike(one, colours, shapes, framings) + (shares @ odds.exp()).clamp(min=1e-9).log()).argmax())
            for one, odds in zip(cutouts, view_odds(prior, cutouts, prompt, words), strict=True)
        ]
        wanted = [framings[best] for best in chosen]
        factor = 1.0
        if as_far:
            owns = [Framing.of(one.mask[None]) for one in cutouts]
            ratios = [float(there.size / own.size) for there, own in zip(wanted, owns, strict=True)]
            factor = len(ratios) / sum(ratios)
        framed = [
            one.framed(there.enlarged(factor), one.mask.shape[-1]) for one, there in zip(cutouts, wanted, strict=True)
        ]
    pictures, alphas = (torch.cat(part) for part in zip(*framed, strict=True))
    pictures = (pictures / alphas.clamp(min=1e-3)).clamp(0, 1)
    return PseudoViews(pictures, views[chosen], (0,) * len(chosen), alphas)


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
    views = Views.of(around * len(ELEVATIONS), distance=distance, field_of_view=field_of_view)
    return replace(views, elevation=torch.tensor(ELEVATIONS).repeat_interleave(AZIMUTHS))


def _alike(
    one: Cutout, colours: Float[Tensor, "n 3 side side"], shapes: Float[Tensor, "n side side"], framings: Framing
) -> Float[Tensor, " n"]:
    """How well a photo fits the scene from each camera, once it is framed alike."""
    framed, alpha = one.framed(framings, SIDE)
    either = torch.maximum(alpha[:, 0], shapes).sum((1, 2)).clamp(min=1e-6)
    both = torch.minimum(alpha[:, 0], shapes).sum((1, 2))
    return OUTLINE * both / either - COLOUR * (framed - colours).abs().mean(1).sum((1, 2)) / either


def _places(side: int, device: torch.device) -> Float[Tensor, " side"]:
    """Middles of pixels, from -1 to 1."""
    return (torch.arange(side, device=device) + 0.5) / side * 2 - 1
