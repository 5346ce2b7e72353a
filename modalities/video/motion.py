"""How much and how a clip moves, in shares of the picture's width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from modalities.video.flow import SIDE, camera_of, flows

if TYPE_CHECKING:
    from modalities.video.clips import Clip

# A pixel that goes less far than this share of the width from frame to frame stands still.
MOVES = 0.0025
LOOKED_AT = 12


def motion_of(clip: Clip) -> dict[str, float]:
    """What `pcs video inspect` tells of a clip's longest shot, between frames spread over it.

    Returns:
        motion: median way of what moves, percent of the width from one looked-at frame to the next.
        moving_share: share of the picture that moves.
        camera: the way that the whole picture goes, percent of the width.
    """
    frames = torch.from_numpy(clip.small[list(clip.spread(LOOKED_AT))]).permute(0, 3, 1, 2).float() / 255
    ways, shares, camera = [], [], []
    for flow in flows(frames):
        way = flow.shift.norm(dim=0) / SIDE
        moves = (way > MOVES) & flow.sure
        shares.append(moves.float().mean())
        ways.append(way[moves].median() if moves.any() else torch.tensor(0.0))
        camera.append(camera_of(flow).norm() / SIDE)
    mean = {name: float(torch.stack(values).mean()) for name, values in (("w", ways), ("s", shares), ("c", camera))}
    return {
        "motion": round(100 * mean["w"], 3),
        "moving_share": round(mean["s"], 4),
        "camera": round(100 * mean["c"], 3),
    }
