"""What happens to pictures on their way to a copier, by chance or to wash a protection off.

Each takes and gives pixels `(3, H, W)` in [0, 1]. JPEG, noise and autoencoding are among those that undo protections in
Hönig et al., ICLR 2025. https://arxiv.org/abs/2406.12027
"""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from modalities.core import media
from modalities.core.backbone import Backbone
from modalities.core.draws import generator
from protect.views import blurred

Pixels = Float[Tensor, "3 h w"]
NOISE, BLUR, CROP = 0.05, 1.0, 0.9


def jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    """JPEG of that quality, chroma subsampled as most software does."""

    def worn(pixels: Pixels) -> Pixels:
        data = io.BytesIO()
        media.to_image(pixels).save(data, "JPEG", quality=quality)
        return media.to_pixels(Image.open(data))

    return worn


def resize(pixels: Pixels) -> Pixels:
    """Half the size and back, Lanczos."""
    image = media.to_image(pixels)
    small = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.LANCZOS)
    return media.to_pixels(small.resize(image.size, Image.Resampling.LANCZOS))


def blur(pixels: Pixels) -> Pixels:
    """Gaussian blur of one pixel."""
    return blurred(pixels, BLUR)


def noise(pixels: Pixels) -> Pixels:
    """Gaussian noise of 0.05."""
    normal = torch.randn(pixels.shape, generator=generator("purifier noise", *pixels.shape))
    return (pixels + NOISE * normal).clamp(0, 1)


def crop(pixels: Pixels) -> Pixels:
    """The middle nine tenths, as a screenshot leaves them."""
    height, width = pixels.shape[-2:]
    top, left = round(height * (1 - CROP) / 2), round(width * (1 - CROP) / 2)
    return pixels[:, top : height - top, left : width - left]


def vae(backbone: Backbone) -> Callable[[Pixels], Pixels]:
    """Once through the base's autoencoder, at the base's resolution."""

    def worn(pixels: Pixels) -> Pixels:
        square = media.square(media.to_image(pixels), backbone.resolution)
        with torch.no_grad():
            posterior = backbone.encode(square[None])
            return backbone.decode(posterior.sample(torch.zeros_like(posterior.mean)))[0].cpu()

    return worn


PURIFIERS: dict[str, Callable[[Pixels], Pixels]] = {
    "jpeg90": jpeg(90),
    "jpeg75": jpeg(75),
    "jpeg50": jpeg(50),
    "resize": resize,
    "blur": blur,
    "noise": noise,
    "crop": crop,
}
NAMES = (*PURIFIERS, "vae")


def purifier(name: str, backbone: Backbone) -> Callable[[Pixels], Pixels]:
    """The purifier of that name; `vae` is the base's own."""
    return vae(backbone) if name == "vae" else PURIFIERS[name]
