"""An image base that draws a clip as a row of pictures, until something lets its frames see each other.

The start of Tune-A-Video (Wu et al., ICCV 2023). https://arxiv.org/abs/2212.11565
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from modalities.core.backbone import Conditioning
from modalities.video.backbones.unet3d import UNet3D


class Inflated(UNet3D):
    """Any diffusers folder or Hub id whose pipeline is `StableDiffusionPipeline`, for recipes that inflate it."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    load_options: ClassVar[dict[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}
    makes_clips: ClassVar[bool] = False
    selectors: ClassVar[dict[str, str]] = {
        name: pattern for name, pattern in UNet3D.selectors.items() if not name.startswith("temporal")
    } | {"queries": r"attn[12]\.to_q$"}

    frames: int = 1
    """Frames of the clips that are asked about now; the batch of the denoiser holds them clip after clip."""

    @classmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> Inflated:
        base = super().open(pipeline, fingerprint, device)
        assert isinstance(base, Inflated)
        return base

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the denoiser of clips `(B, C, F, h, w)` frame by frame, or of pictures `(B, C, h, w)`."""
        if noisy.ndim == 4:
            return self._asked(noisy, t, conditioning, 1)
        frames = noisy.shape[2]
        words = Conditioning({name: value.repeat_interleave(frames, 0) for name, value in conditioning.tensors.items()})
        singly = self._asked(noisy.transpose(1, 2).flatten(0, 1), t.repeat_interleave(frames), words, frames)
        return singly.unflatten(0, (-1, frames)).transpose(1, 2)

    def _asked(self, pictures: Tensor, t: Tensor, conditioning: Conditioning, frames: int) -> Tensor:
        denoiser: Any = self.denoiser
        self.frames = frames
        with self.autocast():
            return denoiser(pictures.to(self.dtype), t, **conditioning.tensors, return_dict=False)[0]
