"""AnimateDiff (Guo et al., ICLR 2024): motion modules between the layers of any Stable Diffusion 1.5 base.

https://arxiv.org/abs/2307.04725
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from modalities.core.backbone import Conditioning
from modalities.video.backbones.unet3d import ATTENTION, SPATIAL, UNet3D

MOTION = r"motion_modules\.\d+\."


class AnimateDiff(UNet3D):
    """Any diffusers folder or Hub id whose pipeline is `AnimateDiffPipeline`.

    Its spatial layers bear the names of the image UNet, so what `pcs train image` learned on the base fits.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("AnimateDiffPipeline",)
    selectors: ClassVar[dict[str, str]] = UNet3D.selectors | {
        "spatial": rf"{SPATIAL}.*(attn1\.{ATTENTION}|ff\.net\.(0\.proj|2)$)",
        "temporal": rf"{MOTION}.*(attn[12]\.{ATTENTION}|ff\.net\.(0\.proj|2)$)",
        "temporal.projections": rf"{MOTION}.*proj_(in|out)$",
        "temporal.qk": rf"{MOTION}.*attn[12]\.(to_q|to_k)$",
        "temporal.qkv": rf"{MOTION}.*attn[12]\.(to_q|to_k|to_v)$",
    }

    @classmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> AnimateDiff:
        base = super().open(pipeline, fingerprint, device)
        assert isinstance(base, AnimateDiff)
        # Its motion modules know so many places in time.
        base.most_frames = int(pipeline.unet.config.motion_max_seq_length)
        return base

    def for_frames(self, conditioning: Conditioning, frames: int) -> Conditioning:
        """This denoiser wants the words once for every frame."""
        tensors = {name: value.repeat_interleave(frames, 0) for name, value in conditioning.tensors.items()}
        return Conditioning(tensors)
