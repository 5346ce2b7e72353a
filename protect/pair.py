"""A photo and its protected file, side by side: how far they are from one another, and noise that is as far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalities.core import media
from modalities.core.draws import generator
from modalities.core.errors import PcsError
from protect import folder, picture
from protect.visible import Perceptual


@dataclass(frozen=True)
class Pair:
    """A photo before and after, upright pixels in levels `(3, H, W)`."""

    name: str
    clean: Tensor
    protected: Tensor

    @property
    def largest(self) -> float:
        """The largest change, in levels."""
        return float((self.protected - self.clean).abs().max())

    def told(self, perceptual: Perceptual) -> dict[str, Any]:
        """How far the file is from the photo, in levels, dB and LPIPS; None for what is not there."""
        change = self.protected - self.clean
        spread = float((change**2).mean())
        return {
            "name": self.name,
            "largest": self.largest,
            "mean": round(float(change.abs().mean()), 3),
            "psnr": round(10 * math.log10(255**2 / spread), 2) if spread else None,
            "lpips": perceptual.distance(self.clean, self.protected),
        }

    def noisy(self) -> Tensor:
        """The photo with a random sign of that size on every value, whole levels: more noise than the protection."""
        signs = torch.randint(0, 2, self.clean.shape, generator=generator("audit noise", self.name)) * 2.0 - 1
        return (self.clean + signs * math.floor(self.largest)).clamp(0, 255)


def paired(clean: Path, protected: Path) -> list[Pair]:
    """The photos that are in both folders: by the record of `pcs protect`, else by name.

    Raises:
        PcsError: a folder is not there, none belong together, or a pair is of two sizes.
    """
    for place in (clean, protected):
        if not place.is_dir():
            raise PcsError(f"{place}: there is no such folder.")
    record = folder.read_record(protected)
    files = {name: about["path"] for name, about in record["files"].items() if about["protected"]} if record else None
    pairs: list[Pair] = []
    for path in sorted(path for path in clean.rglob("*") if path.suffix.lower() in media.SUFFIXES):
        name = path.relative_to(clean).as_posix()
        there = protected / (files.get(name, "") if files is not None else name)
        if there.is_file():
            pairs.append(Pair(name, _levels(path), _levels(there)))
            if pairs[-1].clean.shape != pairs[-1].protected.shape:
                raise PcsError(f"{there}: is of another size than {path}; give the folder that pcs protect wrote.")
    if not pairs:
        raise PcsError(f"{protected}: holds no photo of {clean}; give the folder that pcs protect wrote from it.")
    return pairs


def _levels(path: Path) -> Tensor:
    """Upright pixels in levels, on white where there is alpha.

    Raises:
        PcsError: the file is not one that `pcs protect` could have read or written.
    """
    try:
        return torch.from_numpy(picture.read(path).on_white())
    except media.Unusable as reason:
        raise PcsError(f"{path}: {reason}.") from None
