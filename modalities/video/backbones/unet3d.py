"""ModelScope text-to-video and ZeroScope (Wang et al., 2023): an image UNet with temporal layers between its own.

https://arxiv.org/abs/2308.06571
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modalities.core.backbone import Conditioning
from modalities.core.schedule import DiffusionSchedule
from modalities.core.temporal import bypassed, temporal_layers
from modalities.video.backbone import VideoBackbone

ATTENTION = r"(to_q|to_k|to_v|to_out\.0)$"
TEMPORAL = r"(^transformer_in|temp_attentions\.\d+)\."
SPATIAL = r"(^|\.)attentions\.\d+\."


class UNet3D(VideoBackbone):
    """Any diffusers folder or Hub id whose pipeline is `TextToVideoSDPipeline`.

    Diffusers keeps that pipeline without care: it loads no LoRA, checkpoints no gradients, and shows a single frame to
    the temporal layers. So only its parts are used here.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("TextToVideoSDPipeline",)
    denoiser_part: ClassVar[str] = "unet"
    selectors: ClassVar[dict[str, str]] = {
        # MotionDirector's two sets: self-attention and feed-forward, without the attention to the text.
        "spatial": rf"{SPATIAL}.*(attn1\.{ATTENTION}|ff\.net\.(0\.proj|2)$)",
        "temporal": rf"{TEMPORAL}.*(attn[12]\.{ATTENTION}|ff\.net\.(0\.proj|2)$)",
        "temporal.qk": rf"{TEMPORAL}.*attn[12]\.(to_q|to_k)$",
        "temporal.qkv": rf"{TEMPORAL}.*attn[12]\.(to_q|to_k|to_v)$",
        "temporal.projections": rf"{TEMPORAL}proj_(in|out)$",
        "temporal.convolutions": r"temp_convs\.\d+\.conv\d\.\d+$",
        "attention": rf"{SPATIAL}.*attn[12]\.{ATTENTION}",
        "cross_attention": rf"{SPATIAL}.*attn2\.{ATTENTION}",
        "cross_attention.kv": rf"{SPATIAL}.*attn2\.(to_k|to_v)$",
        "feed_forward": rf"{SPATIAL}.*ff\.net\.(0\.proj|2)$",
        "projections": rf"{SPATIAL}proj_(in|out)$",
        "convolutions": r"resnets\.\d+\.(conv1|conv2|conv_shortcut)$",
    }

    @classmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> UNet3D:
        return cls(pipeline, fingerprint, device, DiffusionSchedule(dict(pipeline.scheduler.config)))

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        return self.last_hidden_states(prompts)

    def predict(
        self, noisy: Float[Tensor, "b ..."], t: Num[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b ..."]:
        """Ask the denoiser of clips `(B, C, F, h, w)`, or of pictures `(B, C, h, w)`.

        A single frame passes its temporal layers by, and so gets the image net's answer bit for bit.
        """
        denoiser: Any = self.denoiser
        clips = noisy[:, :, None] if noisy.ndim == 4 else noisy
        still = bypassed(denoiser) if clips.shape[2] == 1 else nullcontext()
        with self.autocast(), still:
            words = self.for_frames(conditioning, clips.shape[2])
            answer = denoiser(clips.to(self.dtype), t, **words.tensors, return_dict=False)[0]
        return answer[:, :, 0] if noisy.ndim == 4 else answer

    def for_frames(self, conditioning: Conditioning, frames: int) -> Conditioning:
        """The conditioning as the denoiser takes it for clips; this one gives every frame its own copy."""
        return conditioning

    def checkpoint_gradients(self, enabled: bool) -> None:
        """Compute the activations of residual blocks and transformers twice instead of keeping them.

        Diffusers cannot for this network, so the layers' forward functions are wrapped here.
        """
        from diffusers.models.resnet import ResnetBlock2D
        from diffusers.models.transformers.transformer_2d import Transformer2DModel

        spatial = (ResnetBlock2D, Transformer2DModel)
        layers = [layer for layer in self.denoiser.modules() if isinstance(layer, spatial)]
        for layer in [*layers, *temporal_layers(self.denoiser)]:
            layer.__dict__.pop("forward", None)
            if enabled:
                layer.forward = partial(_checkpointed, layer.forward)


def _checkpointed(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    return checkpoint(forward, *given, use_reentrant=False, **named)
