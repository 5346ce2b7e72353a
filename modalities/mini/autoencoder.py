"""The autoencoder of the base: 64 x 64 pixels to 16 x 16 x 4 latents and back, trained from scratch.

Half of what it sees is not from the mini world, so that photos of real things survive it too.
"""

from collections.abc import Iterator

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from modalities.mini import team
from modalities.mini.precision import mixed_precision
from modalities.mini.settings import AutoencoderSettings
from modalities.mini.shards import Pictures
from modalities.mini.training import step_noise, step_rng

FACTOR = 4


def new_autoencoder(channels: tuple[int, int, int], size: int) -> AutoencoderKL:
    """An untrained autoencoder; no attention anywhere, so any size that is a multiple of 4 will do."""
    levels = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=size,
        scaling_factor=1.0,
        force_upcast=False,
    )


def dead_leaves(count: int, size: int, seed: int) -> np.ndarray:
    """Pictures (count, size, size, 3) uint8 of overlapping shapes: natural statistics, no photo."""
    return np.stack([_leaves(np.random.default_rng([seed, i]), size) for i in range(count)])


def _leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    wide = 2 * size
    picture = Image.fromarray(_texture(rng, wide))
    for _ in range(int(rng.integers(4, 60))):
        # Sizes fall off like the cube, as surfaces in photos do.
        reach = float(np.clip(wide * 0.06 / rng.random() ** 0.6, 3, wide * 0.7))
        x, y = rng.uniform(-0.1, 1.1, 2) * wide
        stencil = Image.new("L", (wide, wide))
        draw = ImageDraw.Draw(stencil)
        if rng.random() < 0.5:
            flat = reach * rng.uniform(0.35, 1)
            draw.ellipse((x - reach, y - flat, x + reach, y + flat), fill=255)
        else:
            corners = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            draw.polygon([(x + reach * np.cos(a), y + reach * np.sin(a)) for a in corners], fill=255)
        picture.paste(Image.fromarray(_texture(rng, wide)), (0, 0), stencil)
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A colour with a gradient and noise of one random scale, (size, size, 3) uint8."""
    corners = rng.random(3) + rng.normal(0, 0.12, (2, 2, 3)) * rng.random()
    smooth = Image.fromarray((np.clip(corners, 0, 1) * 255).astype(np.uint8))
    shaded = np.asarray(smooth.resize((size, size), Image.Resampling.BILINEAR), np.float32)
    grain = max(2, int(size / 2 ** rng.integers(1, 7)))
    noise = Image.fromarray(rng.normal(0, 1, (grain, grain)).astype(np.float32))
    noise = np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC))
    strength = 30 * rng.random() ** 3
    return np.clip(shaded + strength * noise[..., None], 0, 255).astype(np.uint8)


class AutoencoderTask:
    """Batches and loss of the autoencoder."""

    def __init__(
        self,
        model: AutoencoderKL,
        pictures: Pictures,
        settings: AutoencoderSettings,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.pictures, self.settings, self.device = model.to(device), pictures, settings, device
        self._seed, self._foreign = seed, dead_leaves(min(6000, len(pictures)), pictures.size, seed)

    def batch(self, step: int, is_crop: bool) -> Tensor:
        """Pixels (B, 3, H, W) float32 in [0, 1] of one step, or crops of half the size."""
        settings, rng = self.settings, step_rng(self._seed, step)
        count = settings.batch_on_crops if is_crop else settings.batch_on_pictures
        foreign = round(count * settings.foreign_share)
        images = np.concatenate(
            [
                self.pictures[rng.integers(len(self.pictures), size=count - foreign)],
                self._foreign[rng.integers(len(self._foreign), size=foreign)],
            ]
        )
        images = np.stack(team.mine([_augmented(image, is_crop, rng) for image in images]))
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device).float() / 255

    def loss(self, step: int) -> Tensor:
        """Reconstruction in pixels and their differences, a little KL, and the same at half the size."""
        pixels = self.batch(step, is_crop=step < self.settings.steps_on_crops)
        noise = step_noise(self._seed, step)
        with mixed_precision(self.device):
            moments = self.model.encode(pixels * 2 - 1).latent_dist
            whole = (len(pixels) * team.size(), *moments.mean.shape[1:])
            draw = team.mine(torch.randn(whole, generator=noise)).to(self.device)
            latents = moments.mean + moments.std * draw
            decoded = self.model.decode(latents).sample
            # Latents that still mean the picture after halving are smooth, and smooth latents are easier to
            # denoise (EQ-VAE, Kouzelis et al. 2025, https://arxiv.org/abs/2502.09509).
            halved = self.model.decode(functional.avg_pool2d(latents, 2)).sample
        error = _difference(decoded.float() / 2 + 0.5, pixels)
        halved_error = _difference(halved.float() / 2 + 0.5, functional.avg_pool2d(pixels, 2))
        kl = moments.kl().mean() / pixels[0].numel()
        return error + self.settings.halved_weight * halved_error + self.settings.kl_weight * kl


class DecoderTask:
    """More training of the decoder on the exact latents of a frozen encoder, for the sake of PSNR."""

    def __init__(self, whole: AutoencoderTask, steps_on_crops: int) -> None:
        self._whole, self._steps_on_crops = whole, steps_on_crops
        for part in (whole.model.encoder, whole.model.quant_conv):
            part.requires_grad_(False)

    def loss(self, step: int) -> Tensor:
        """How far decoded pictures are from their originals, see `_log_error`."""
        pixels = self._whole.batch(step, is_crop=step < self._steps_on_crops)
        with mixed_precision(pixels.device):
            decoded = self._whole.model.decode(encoded(self._whole.model, pixels)).sample
        return _log_error(decoded, pixels)


class TogetherTask:
    """More training of both halves, whose latents stay near those that other networks have learned from.

    learned_from: the autoencoder that made those.
    """

    def __init__(self, whole: AutoencoderTask, learned_from: AutoencoderKL, hold: float) -> None:
        self._whole, self._learned_from, self._hold = whole, learned_from, hold
        # Its encoder may have been frozen before.
        whole.model.requires_grad_(True)

    def loss(self, step: int) -> Tensor:
        """How far whole pictures are from their originals, and their latents from what these were; see `_log_error`.

        Of latents that is the squared distance of their means and of their spreads.
        """
        pixels, model = self._whole.batch(step, is_crop=False), self._whole.model
        with mixed_precision(pixels.device):
            latents = model.encode(pixels * 2 - 1).latent_dist
            decoded = model.decode(latents.mean).sample
            with torch.no_grad():
                before = self._learned_from.encode(pixels * 2 - 1).latent_dist
        moved = functional.mse_loss(latents.mean.float(), before.mean.float())
        moved = moved + functional.mse_loss(latents.std.float(), before.std.float())
        return _log_error(decoded, pixels) + self._hold * moved


def _augmented(image: np.ndarray, is_crop: bool, rng: np.random.Generator) -> np.ndarray:
    """A crop of half the side (when asked), perhaps mirrored, perhaps with its channels in another order."""
    if is_crop:
        half = image.shape[0] // 2
        top, left = rng.integers(half + 1, size=2)
        image = image[top : top + half, left : left + half]
    if rng.random() < 0.5:
        image = image[:, ::-1]
    return image[..., rng.permutation(3)] if rng.random() < 0.3 else image


def _log_error(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Mean over pictures of the logarithm of the squared error, which PSNR is, and a little L1.

    decoded: (B, 3, H, W) in [-1, 1]. pixels: the same in [0, 1].
    """
    error = decoded.float() / 2 + 0.5 - pixels
    return 0.05 * error.square().mean(dim=(1, 2, 3)).add(1e-5).log().mean() + 0.2 * error.abs().mean()


def _difference(decoded: Tensor, pixels: Tensor) -> Tensor:
    """L1 and L2 of the pixels, and L1 of their differences along both axes, which keeps edges sharp."""
    error = decoded - pixels
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * edges


def batches(pictures: Pictures, device: torch.device, size: int = 64) -> Iterator[Tensor]:
    """All pictures in order, as (B, 3, H, W) float32 in [0, 1]."""
    for start in range(0, len(pictures), size):
        images = torch.from_numpy(pictures[np.arange(start, min(start + size, len(pictures)))])
        yield images.permute(0, 3, 1, 2).to(device).float() / 255


@torch.no_grad()
def encoded(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Means of the latent distribution (B, 4, H / 4, W / 4), unscaled, of pixels (B, 3, H, W) in [0, 1]."""
    return model.encode(pixels * 2 - 1).latent_dist.mean


@torch.no_grad()
def psnr(model: AutoencoderKL, pixels: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB after encoding and decoding `pixels`."""
    decoded = (model.decode(encoded(model, pixels)).sample / 2 + 0.5).clamp(0, 1)
    squared = (decoded - pixels).square().mean(dim=(1, 2, 3))
    return float((-10 * squared.log10()).mean())


@torch.no_grad()
def normalize_latents(model: AutoencoderKL, latents: Tensor) -> None:
    """Fold scale and shift into the model: each channel of `latents` (N, 4, h, w) gets mean 0, spread 1.

    Nothing it decodes changes, and Stable Diffusion's single scaling factor becomes 1.
    """
    mean, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    before, after = model.quant_conv, model.post_quant_conv
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= spread.view(1, -1, 1, 1)
    half = len(mean)
    before.weight[:half] /= spread.view(-1, 1, 1, 1)
    before.bias[:half] = (before.bias[:half] - mean) / spread
    before.bias[half:] -= 2 * spread.log()
