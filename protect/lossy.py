"""JPEG as a trainer's downloads went through it, differentiable: rounding passes the gradient straight through.

Shin & Song, "JPEG-resistant Adversarial Images", NIPS 2017 workshop, with the straight-through estimator of
Bengio et al. 2013, https://arxiv.org/abs/1308.3432, in place of their cubic.
"""

from __future__ import annotations

import functools
import io
import math

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

# ITU-R BT.601, full range, as JFIF has it.
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg(levels: Float[Tensor, "b 3 h w"], quality: int) -> Float[Tensor, "b 3 h w"]:
    """Pictures in levels of 0..255 after JPEG of that quality, without chroma subsampling."""
    height, width = levels.shape[-2:]
    padded = functional.pad(levels, (0, -width % 8, 0, -height % 8), mode="replicate")
    mix = torch.tensor(TO_YCBCR, dtype=levels.dtype, device=levels.device)
    ycbcr = torch.einsum("ij,bjhw->bihw", mix, padded) - torch.tensor([128.0, 0, 0], device=levels.device).view(3, 1, 1)
    blocks = ycbcr.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).permute(0, 2, 4, 1, 3, 5)
    cosines, table = _cosines().to(levels), _tables(quality).to(levels)
    spectrum = cosines @ blocks @ cosines.T
    kept = rounded(spectrum / table) * table
    blocks = cosines.T @ kept @ cosines
    ycbcr = blocks.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    ycbcr = ycbcr + torch.tensor([128.0, 0, 0], device=levels.device).view(3, 1, 1)
    rgb = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(mix), ycbcr)
    return rounded(rgb[..., :height, :width].clamp(0, 255))


def rounded(values: Tensor) -> Tensor:
    """Whole numbers, with the gradient of the values themselves."""
    return values + (values.round() - values).detach()


@functools.cache
def _cosines() -> Float[Tensor, "8 8"]:
    """The orthonormal DCT-II of 8 values."""
    place, wave = torch.arange(8.0), torch.arange(8.0)[:, None]
    basis = torch.cos((2 * place + 1) * wave * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis


@functools.cache
def _tables(quality: int) -> Float[Tensor, "3 8 8"]:
    """The quantisation tables of luma and both chromas that libjpeg uses at a quality."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "JPEG", quality=quality, subsampling=0)
    tables = Image.open(data).quantization  # pyright: ignore[reportAttributeAccessIssue]
    luma, chroma = (torch.tensor(tables[number], dtype=torch.float32).view(8, 8) for number in (0, 1))
    return torch.stack([luma, chroma, chroma])
