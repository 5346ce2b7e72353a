"""How well a clip does what it should: moves like the reference, holds together, and did not take over its looks.

Every score is of one made clip; `Judge.score` names them. Fidelity is `motion_fidelity@pcs-1`: the measure of Yatim et
al. (CVPR 2024, https://arxiv.org/abs/2311.17009) in [-1, 1] on tracks of this repository's own flow, without tracks
that stand still and without stray partners. It says nothing about speed, which has a ratio of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from modalities.core.encoders import ImageEncoder, TextImageEncoder
from modalities.video.clips import as_images
from modalities.video.flow import SIDE, Flow, camera_of, flows, warp_error

FIDELITY = "motion_fidelity@pcs-1"
GRID = 16
# A track that goes less than this share of the width from frame to frame on average stands still.
STILL = 0.004
# A track's partner is not the best of all, as in the paper, but at this quantile: among hundreds of tracks there is
# always a stray one that fits by chance (vertical against horizontal motion scored 0.47 with the best).
PARTNER = 0.75


@dataclass(frozen=True)
class Tracks:
    """Ways of grid points through a clip: velocities (n, F - 1, 2) in shares of the width, those that move."""

    velocities: Float[Tensor, "n f 2"]
    camera: Float[Tensor, "f 2"]

    @property
    def speed(self) -> float:
        """Median speed of what moves, in shares of the width from frame to frame; 0 if nothing does."""
        return float(self.velocities.norm(dim=2).mean(1).median()) if len(self.velocities) else 0.0


def tracks_of(frames: Float[Tensor, "f 3 h w"]) -> Tracks:
    """Follow grid points from every frame on, forwards and backwards, and keep what moves and is not lost."""
    there = flows(frames)
    camera = torch.stack([camera_of(flow) for flow in there]) / SIDE
    found: list[Tensor] = []
    for begin in range(len(there)):
        found.append(_followed(there, begin))
    velocities = torch.cat(found) / SIDE
    moves = velocities.norm(dim=2).mean(1) > STILL
    return Tracks(velocities[moves], camera)


def _followed(there: list[Flow], begin: int) -> Tensor:
    """Velocities in pixels of grid points that stand in frame `begin`, through the whole clip, (n, F - 1, 2).

    Backwards a point goes against the flow of the frame that it comes to, which is exact enough for small steps.
    """
    step = SIDE / GRID
    places = (torch.arange(GRID) + 0.5) * step
    y, x = torch.meshgrid(places, places, indexing="ij")
    start = torch.stack([x.flatten(), y.flatten()], 1)
    velocities = torch.zeros(len(start), len(there), 2)
    sure = torch.ones(len(start), dtype=torch.bool)
    point = start.clone()
    for number in range(begin, len(there)):
        velocities[:, number], good = _at(there[number], point)
        sure &= good
        point = (point + velocities[:, number]).clamp(0, SIDE - 1)
    point = start.clone()
    for number in range(begin - 1, -1, -1):
        before = point - _at(there[number], point)[0]
        velocities[:, number], good = _at(there[number], before.clamp(0, SIDE - 1))
        sure &= good
        point = (point - velocities[:, number]).clamp(0, SIDE - 1)
    return velocities[sure]


def _at(flow: Flow, points: Tensor) -> tuple[Tensor, Tensor]:
    """The shift at points (n, 2), x then y, and whether it is sure."""
    column, row = points.round().long().clamp(0, SIDE - 1).unbind(1)
    return flow.shift[:, row, column].T, flow.sure[row, column]


def motion_fidelity(made: Tracks, reference: Tracks) -> float:
    """How well tracks point the same way at the same time, each with a good partner, both ways; NaN if none moves.

    1 is the same motion, 0 an unrelated one, -1 its opposite.
    """
    if not len(reference.velocities):
        return math.nan
    if not len(made.velocities):
        return 0.0
    a, b = (torch.nn.functional.normalize(one.velocities, dim=2, eps=1e-6) for one in (made, reference))
    # A moment in which either stands still has no direction and counts nothing.
    counted = torch.einsum("ifc,jfc->ij", a.abs().sum(2, True).gt(0).float(), b.abs().sum(2, True).gt(0).float())
    cosine = torch.einsum("ifc,jfc->ij", a, b) / counted.clamp(min=1)
    return float((cosine.quantile(PARTNER, 1).mean() + cosine.quantile(PARTNER, 0).mean()) / 2)


def dynamic_degree(tracks: Tracks) -> float:
    """Median speed of what moves, percent of the width from frame to frame."""
    return 100 * tracks.speed


def speed_ratio(made: Tracks, reference: Tracks) -> float:
    """Speed of a made clip over the reference's; 1 is as fast."""
    return made.speed / reference.speed if reference.speed else math.nan


@dataclass(frozen=True)
class Reference:
    """What made clips are judged by: the learned clip, and photos of the subject."""

    frames: Float[Tensor, "f 3 h w"] | None
    photos: tuple[Image.Image, ...] = ()


class Judge:
    """Scores clips beside one reference; what the reference shows is looked at once."""

    def __init__(self, reference: Reference, subject: ImageEncoder, clip: TextImageEncoder) -> None:
        self._reference, self._subject, self._clip = reference, subject, clip
        frames = reference.frames
        self._tracks = None if frames is None else tracks_of(frames)
        self._looks = None if frames is None else subject(as_images(frames))
        self._photos = subject(list(reference.photos)) if reference.photos else None

    def score(self, frames: Float[Tensor, "f 3 h w"], prompt: str) -> dict[str, float]:
        """All scores of a clip in [0, 1] that was made of `prompt`."""
        images, tracks = as_images(frames), tracks_of(frames)
        seen, understood = self._subject(images), self._clip(images)
        scores = {
            "frame_consistency": float((seen[1:] * seen[:-1]).sum(1).mean()),
            "dynamic_degree": dynamic_degree(tracks),
            "clip_t": float((understood @ self._clip.text([prompt]).T).mean()),
            "warp_error": warp_error(frames),
        }
        if self._tracks is not None and self._looks is not None:
            scores |= {
                "motion_fidelity": motion_fidelity(tracks, self._tracks),
                "speed_ratio": speed_ratio(tracks, self._tracks),
                "likeness_to_clip": float((seen @ self._looks.T).amax(1).mean()),
            }
        if self._photos is not None:
            scores["subject"] = float((seen @ self._photos.T).mean())
        return scores


def appearance_leak(made: dict[str, float], base: dict[str, float]) -> float:
    """How much more a clip looks like the reference than the base's clip of the same prompt and noise does."""
    return made["likeness_to_clip"] - base["likeness_to_clip"]
