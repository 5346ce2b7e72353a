"""A text-to-video base behind the core's face: it takes clips, and a picture as a clip of one frame."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core.backbone import Backbone, Posterior
from modalities.core.errors import PcsError


class VideoBackbone(Backbone):
    """What all text-to-video families share. Latents of clips are `(B, C, F, h, w)`, of pictures `(B, C, h, w)`."""

    frame_step: ClassVar[int] = 1
    """A clip has a multiple of this plus one frames, as the autoencoder packs this many frames into one latent."""
    most_frames: int | None = None
    """The longest clip that the base's positions reach."""
    usual_frames: ClassVar[int] = 16
    """The frames of a clip unless a recipe says otherwise."""
    frames_per_second: ClassVar[float] = 8.0
    """The speed at which the base's clips are meant to be seen."""

    @property
    def resolution(self) -> int:
        size: Any = self.denoiser.config.sample_size  # pyright: ignore
        side = size if isinstance(size, int) else min(size)
        return int(side) * self.pixels_per_latent

    def require_frames(self, frames: int) -> None:
        """Check a number of frames before anything is made of it.

        Raises:
            PcsError: the base cannot make clips of that many frames; names the nearest that it can.
        """
        if self.most_frames is not None and frames > self.most_frames:
            raise PcsError(f"frames={frames}: this base makes clips of at most {self.most_frames} frames.")
        if frames < 1 or (frames - 1) % self.frame_step:
            lower = max(0, (frames - 1) // self.frame_step) * self.frame_step + 1
            near = min((lower, lower + self.frame_step), key=lambda count: (abs(count - frames), -count))
            raise PcsError(f"frames={frames}: this base takes {self.frame_step}k+1 frames; use {near}.")

    def latent_frames(self, frames: int) -> int:
        """Latents in time that `frames` frames become."""
        return (frames - 1) // self.frame_step + 1

    def latent_shape(self, frames: int, side: int) -> tuple[int, ...]:
        """Shape `(C, F', h, w)` of the latents of a clip of `frames` frames, `side` pixels square."""
        channels = int(self.denoiser.config.in_channels)  # pyright: ignore
        size = side // self.pixels_per_latent
        return channels, self.latent_frames(frames), size, size

    def encode_clips(self, pixels: Float[Tensor, "b f 3 height width"]) -> Posterior:
        """Encode clips in [0, 1] frame by frame; return the distribution of their latents, `(b, c, f, h, w)`."""
        singly = [self.encode(frames) for frames in pixels.flatten(0, 1).split(8)]
        mean, std = (torch.cat([getattr(one, name) for one in singly]) for name in ("mean", "std"))
        clips = [part.unflatten(0, pixels.shape[:2]).transpose(1, 2).contiguous() for part in (mean, std)]
        return Posterior(clips[0], clips[1], singly[0].shift, singly[0].scale)

    def decode_clips(self, latents: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b frames 3 height width"]:
        """Decode latents into clips in [0, 1]."""
        count, frames = latents.shape[0], latents.shape[2]
        singly = latents.transpose(1, 2).flatten(0, 1).split(8)
        return torch.cat([self.decode(part) for part in singly]).unflatten(0, (count, frames))
