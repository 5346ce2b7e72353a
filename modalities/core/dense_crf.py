"""A mask that follows the edges of a picture, from rough evidence of where the subject is.

A fully connected conditional random field (Krähenbühl & Koltun, NeurIPS 2011, https://arxiv.org/abs/1210.5644, eq. 3
and algorithm 1), computed exactly because the picture is small; colours of both sides are estimated in turn with it, as
GrabCut does (Rother et al., SIGGRAPH 2004).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

# Pixels a side at which masks are found; what is larger is made smaller first.
LARGEST_SIDE = 64
# How far alike colours and how far any colours hold together, in pixels; how unlike colours are, in [0, 1] a channel.
NEAR, TOUCHING, ALIKE = 8.0, 2.0, 0.08
# What colours that hold together count, what being close counts, and the most that evidence and colours count.
BOND, SMOOTHNESS, EVIDENCE, COLOURS = 20.0, 3.0, 8.0, 3.0
ROUNDS, STEPS = 3, 10


def segment(pixels: Float[Tensor, "3 side side"], evidence: Float[Tensor, "side side"]) -> Float[Tensor, "side side"]:
    """Where the subject is, 1 or 0.

    Args:
        pixels: the picture in [0, 1].
        evidence: log-odds for the subject at every pixel; what is beyond +-`EVIDENCE` counts as that.
    """
    side = min(pixels.shape[-1], LARGEST_SIDE)
    small = functional.interpolate(pixels[None], (side, side), mode="bilinear", antialias=True)[0]
    said = functional.interpolate(evidence[None, None], (side, side), mode="bilinear", antialias=True).flatten()
    said = said.clamp(-EVIDENCE, EVIDENCE)
    place = torch.arange(side, device=pixels.device, dtype=torch.float32)
    places = torch.cartesian_prod(place, place)
    far, unlike = torch.cdist(places, places).square(), torch.cdist(small.flatten(1).T, small.flatten(1).T).square()
    same = torch.exp(-unlike / (2 * ALIKE**2))
    bonds, touches = _weights(same * torch.exp(-far / (2 * NEAR**2))), _weights(torch.exp(-far / (2 * TOUCHING**2)))
    inside = said.sigmoid()
    for _ in range(ROUNDS):
        own, other = (same @ share / share.sum().clamp(min=1) for share in (inside, 1 - inside))
        odds = said + ((own + 1e-4).log() - (other + 1e-4).log()).clamp(-COLOURS, COLOURS)
        for _ in range(STEPS):
            sides = 2 * inside - 1
            inside = torch.sigmoid(odds + BOND / 2 * (bonds @ sides) + SMOOTHNESS / 2 * (touches @ sides))
    whole = functional.interpolate(inside.view(1, 1, side, side), pixels.shape[-2:], mode="bilinear")
    return (whole[0, 0] > 0.5).float()


def _weights(kernel: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """What each place counts for each other: its share of all others, not of itself."""
    others = kernel.fill_diagonal_(0)
    return others / others.sum(1, keepdim=True).clamp(min=1e-6)
