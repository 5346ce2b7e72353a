"""The true path of a clip of the mini world, and how far a made clip strays from it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from modalities.core.encoders import EMBEDDED
from modalities.core.errors import PcsError
from modalities.mini.check import load_motion_probe
from modalities.mini.motion import FRAMES

SIDE = 64


def true_path(clip: Path) -> Tensor | None:
    """The path (FRAMES, 3) that `pcs world clip` told of a file that it wrote; None for any other clip.

    Raises:
        PcsError: the truth beside the clip cannot be read.
    """
    listing = clip.resolve().parent.parent / "truth.jsonl"
    if not listing.is_file():
        return None
    try:
        told = [json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines()]
        path = next((one["path"] for one in told if Path(one["file"]).name == clip.name and "path" in one), None)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise PcsError(f"{listing}: cannot be read as the truth of clips ({error!r}).") from error
    return torch.tensor(path) if path is not None and len(path) == FRAMES else None


@torch.no_grad()
def path_error(frames: Tensor, path: Tensor) -> float:
    """Mean distance in picture widths between where the motion probe sees the subject and where its path takes it.

    Args:
        frames: (FRAMES, 3, H, W) in [0, 1].
        path: (FRAMES, 3); both are taken from where they start.
    """
    small = functional.interpolate(frames, (SIDE, SIDE), mode="area")
    seen = load_motion_probe(EMBEDDED)(small[None])["path"][0, :, :2]
    return float(((seen - seen[:1]) - (path[:, :2] - path[:1, :2])).norm(dim=-1).mean())
