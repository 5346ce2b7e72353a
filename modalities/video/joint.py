"""Bases whose attention spans space and time at once, over latents into which several frames are packed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from modalities.core.backbone import Conditioning, Posterior
from modalities.video.backbone import VideoBackbone


class JointBackbone(VideoBackbone):
    """What these families share: a transformer without temporal layers, and a causal autoencoder of clips.

    `spatial` and `temporal` name the same layers; what keeps appearance from motion are passes over frames and over
    clips.
    """

    denoiser_part: ClassVar[str] = "transformer"

    @abstractmethod
    def answer(
        self, clips: Float[Tensor, "b c f h w"], t: Num[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c f h w"]:
        """Ask the denoiser of clips in its own precision."""

    @abstractmethod
    def channels(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of raw latents, that spread over `(B, C, F, h, w)`."""

    @property
    def side_step(self) -> int:
        patch: Any = self.denoiser.config.patch_size  # pyright: ignore
        return self.pixels_per_latent * int(patch if isinstance(patch, int) else patch[-1])

    def predict(
        self, noisy: Float[Tensor, "b ..."], t: Num[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b ..."]:
        """Ask the denoiser of clips `(B, C, F', h, w)`, or of pictures `(B, C, h, w)` as clips of one frame."""
        clips = noisy[:, :, None] if noisy.ndim == 4 else noisy
        with self.autocast():
            answer = self.answer(clips.to(self.dtype), t, conditioning)
        return answer[:, :, 0] if noisy.ndim == 4 else answer

    def encode(self, pixels: Float[Tensor, "b 3 height width"]) -> Posterior:
        """Encode pictures as clips of one frame."""
        clips = self.encode_clips(pixels[:, None])
        return Posterior(clips.mean[:, :, 0], clips.std[:, :, 0], clips.shift, clips.scale)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        return self.decode_clips(latents[:, :, None])[:, 0]

    def encode_clips(self, pixels: Float[Tensor, "b f 3 height width"]) -> Posterior:
        """Encode clips in [0, 1]; the frames after the first share latents. Channels are brought to unit scale."""
        clips = (pixels * 2 - 1).transpose(1, 2).to(self.device, self.vae.dtype)
        found = self.vae.encode(clips).latent_dist
        middle, width = self.channels()
        return Posterior((found.mean.float() - middle) / width, found.std.float() / width, 0.0, 1.0)

    def decode_clips(self, latents: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b frames 3 height width"]:
        middle, width = self.channels()
        pixels = self.decoded((latents * width + middle).to(self.vae.dtype))
        return (pixels.float().transpose(1, 2) / 2 + 0.5).clamp(0, 1)

    def decoded(self, raw: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 frames height width"]:
        """What the autoencoder makes of raw latents, in [-1, 1]."""
        return self.vae.decode(raw).sample

    def per_channel(self, values: Any) -> Float[Tensor, "1 c 1 1 1"]:
        """Numbers of channels, that spread over latents of clips."""
        return torch.as_tensor(values, dtype=torch.float32, device=self.device).view(1, -1, 1, 1, 1)
