"""How a trainer may load a photo, differentiable: crop, resize, mirror, and what happens to pictures on the way.

Expectation over transformation (Athalye et al., ICML 2018, https://arxiv.org/abs/1707.07397).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from modalities.core.draws import generator
from protect.lossy import jpeg
from protect.recipe import Views

LANCZOS, BILINEAR = 3.0, 1.0
# What blurs and halves reaches this far beyond a crop's edge.
MARGIN = 8


@dataclass(frozen=True)
class View:
    """One way to load a photo: a square of it, and what was done to the file before.

    Attributes:
        left, top, side: the square in pixels; side 0 is the whole photo, of which the centre is cut after resizing.
        kernel: half width of the resizing filter in target pixels, Lanczos or bilinear.
        worn: "", "jpeg", "halve", "blur" or "noise".
        amount: quality or standard deviation of it.
    """

    left: int
    top: int
    side: int
    mirrored: bool = False
    kernel: float = LANCZOS
    worn: str = ""
    amount: float = 0.0


# What `media.square` and the published trainers make of a photo.
PLAIN = View(0, 0, 0)


def drawn(settings: Views, height: int, width: int, *key: object) -> View:
    """A view by chance; the draw depends on `key` alone."""
    chance = torch.rand(8, generator=generator("view", *key), dtype=torch.float64).tolist()
    short = min(height, width)
    view = PLAIN
    if chance[0] >= settings.plain:
        side = max(1, round(short * (settings.zoom + (1 - settings.zoom) * chance[1])))
        left, top = round(chance[2] * (width - side)), round(chance[3] * (height - side))
        view = View(left, top, side, kernel=LANCZOS if chance[4] < 0.5 else BILINEAR)
    wear = _wear(settings)
    worn, amount = wear[int(chance[6] * len(wear))]
    # Qualities are meant as they are; blur and noise are of any strength up to the given one.
    amount *= chance[7] if worn in ("blur", "noise") else 1.0
    return replace(view, mirrored=settings.flip and chance[5] < 0.5, worn=worn, amount=amount)


def _wear(settings: Views) -> list[tuple[str, float]]:
    """What may happen to a file, untouched as often as all the rest together."""
    kinds: list[tuple[str, float]] = [("jpeg", float(quality)) for quality in settings.jpeg]
    kinds += [("halve", 0.5)] if settings.halve else []
    kinds += [("blur", settings.blur)] if settings.blur else []
    kinds += [("noise", settings.noise)] if settings.noise else []
    return [("", 0.0)] * max(1, len(kinds)) + kinds


def region(view: View, height: int, width: int) -> tuple[View, tuple[int, int, int, int]]:
    """What a view needs of a photo, `(left, top, right, bottom)` from a multiple of JPEG's blocks on, and the same
    view of that part alone."""
    if not view.side:
        return view, (0, 0, width, height)
    left, top = (max(0, (start - MARGIN) // 8 * 8) for start in (view.left, view.top))
    right, bottom = min(width, view.left + view.side + MARGIN), min(height, view.top + view.side + MARGIN)
    return replace(view, left=view.left - left, top=view.top - top), (left, top, right, bottom)


def seen(
    levels: Float[Tensor, "3 h w"], view: View, resolution: int, *key: object, saved: int | None = None
) -> Float[Tensor, "3 resolution resolution"]:
    """Load the picture, in levels of 0..255, through a view; return pixels in [0, 1].

    saved: quality of the JPEG file that it is saved as; None loses nothing.
    """
    height, width = levels.shape[-2:]
    levels = _worn(levels, view, saved, *key)
    if not view.side:
        rows, columns = (_centre(size, min(height, width), resolution).to(levels) for size in (height, width))
        return _shown(rows @ levels @ columns.T, view)
    square = levels[:, view.top : view.top + view.side, view.left : view.left + view.side]
    matrix = _resize(view.side, resolution, view.kernel).to(levels)
    return _shown(matrix @ square @ matrix.T, view)


def _shown(small: Tensor, view: View) -> Tensor:
    pixels = small.clamp(0, 255) / 255
    return pixels.flip(-1) if view.mirrored else pixels


def _worn(levels: Float[Tensor, "3 h w"], view: View, saved: int | None, *key: object) -> Float[Tensor, "3 h w"]:
    height, width = levels.shape[-2:]
    levels = jpeg(levels[None], saved)[0] if saved else levels
    if not view.worn:
        return levels
    if view.worn == "jpeg":
        return jpeg(levels[None], max(1, round(view.amount)))[0]
    if view.worn == "noise":
        normal = torch.randn(levels.shape, generator=generator("view noise", *key)).to(levels)
        return (levels + normal * view.amount * 255).clamp(0, 255)
    if view.worn == "halve":
        down = [_resize(size, max(1, size // 2), LANCZOS).to(levels) for size in (height, width)]
        up = [_resize(max(1, size // 2), size, LANCZOS).to(levels) for size in (height, width)]
        return (up[0] @ (down[0] @ levels @ down[1].T) @ up[1].T).clamp(0, 255)
    return blurred(levels, view.amount)


def blurred(levels: Float[Tensor, "3 h w"], sigma: float) -> Float[Tensor, "3 h w"]:
    """Gaussian blur with a standard deviation in pixels."""
    reach = min(math.ceil(3 * sigma), min(levels.shape[-2:]) - 1)
    if reach < 1:
        return levels
    places = torch.arange(-reach, reach + 1, dtype=levels.dtype, device=levels.device)
    weights = torch.softmax(-(places**2) / (2 * max(sigma, 1e-3) ** 2), 0)
    padded = functional.pad(levels[:, None], (reach, reach, reach, reach), mode="reflect")
    wide = functional.conv2d(padded, weights.view(1, 1, 1, -1))
    return functional.conv2d(wide, weights.view(1, 1, -1, 1))[:, 0]


def _centre(size: int, short: int, resolution: int) -> Float[Tensor, "resolution size"]:
    """The matrix that resizes a side so that the shorter one becomes `resolution`, and cuts the middle out."""
    target = int(resolution * size / short)
    start = round((target - resolution) / 2.0)
    return _resize(size, target, LANCZOS)[start : start + resolution]


@functools.lru_cache(256)
def _resize(size: int, target: int, support: float) -> Float[Tensor, "target size"]:
    """The matrix by which Pillow resizes a line: an antialiasing filter, normalised at the edges."""
    if size == target:
        return torch.eye(size)
    scale = size / target
    stretch = max(scale, 1.0)
    centre = (torch.arange(target, dtype=torch.float64)[:, None] + 0.5) * scale
    place = (torch.arange(size, dtype=torch.float64) + 0.5 - centre) / stretch
    weights = torch.sinc(place) * torch.sinc(place / LANCZOS) if support == LANCZOS else 1 - place.abs()
    weights = torch.where(place.abs() < support, weights, 0.0)
    return (weights / weights.sum(1, keepdim=True)).float()
