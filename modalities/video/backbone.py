"""A text-to-video base behind the core's face: it takes clips, and a picture as a clip of one frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modalities.core.backbone import Backbone, Posterior
from modalities.core.errors import PcsError

# A UNet's blocks go down, through the middle and up; a transformer's are counted.
BLOCK = re.compile(r"^(down_blocks|mid_block|up_blocks|transformer_blocks|blocks)(?:\.(\d+))?\.")


class VideoBackbone(Backbone):
    """What all text-to-video families share. Latents of clips are `(B, C, F, h, w)`, of pictures `(B, C, h, w)`."""

    makes_clips: ClassVar[bool] = True
    """Whether it draws clips by itself, and not only after a component has made its frames see each other."""
    frames_per_latent: ClassVar[int] = 1
    """After the first, so many frames are packed into one latent."""
    frame_step: ClassVar[int] = 1
    """A clip has a multiple of this plus one frames."""
    most_frames: int | None = None
    """The longest clip that the base's positions reach."""
    usual_frames: int = 16
    """The frames of a clip unless a recipe says otherwise."""
    frames_per_second: float = 8.0
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

    def denoisers(self) -> dict[str, nn.Module]:
        """The denoiser by its name in the folder; more than one where several share the work, all of one build."""
        return {self.denoiser_part: self.denoiser}

    def select_in(self, layers: str, blocks: Sequence[int] | None) -> list[str]:
        """As `select`, of some of the denoiser's blocks only, counted from 0 from its input to its output.

        Raises:
            PcsError: there is no such block, or none of the layers is in these.
        """
        chosen = self.select(layers)
        if blocks is None:
            return chosen
        known = sorted({one for name, _ in self.denoiser.named_modules() if (one := block_of(name))})
        odd = [block for block in blocks if not 0 <= block < len(known)]
        if odd:
            raise PcsError(f"blocks {odd}: this base has blocks 0 to {len(known) - 1}.")
        wanted = {known[block] for block in blocks}
        found = [name for name in chosen if block_of(name) in wanted]
        if not found:
            have = sorted({known.index(one) for name in chosen if (one := block_of(name))})
            raise PcsError(f'blocks {list(blocks)}: hold no "{layers}" layers; those are in blocks {have}.')
        return found

    def latent_frames(self, frames: int) -> int:
        """Latents in time that `frames` frames become."""
        return (frames - 1) // self.frames_per_latent + 1

    def latent_shape(self, frames: int, side: int) -> tuple[int, ...]:
        """Shape `(C, F', h, w)` of the latents of a clip of `frames` frames, `side` pixels square."""
        size = side // self.pixels_per_latent
        return self.latent_channels, self.latent_frames(frames), size, size

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


def block_of(name: str) -> tuple[str, int] | None:
    """The block that a module is in, in the order from input to output; None for what is in none."""
    found = BLOCK.match(f"{name}.")
    return (found[1], int(found[2] or 0)) if found and (found[2] or found[1] == "mid_block") else None
