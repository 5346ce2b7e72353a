"""Clips from a base with what was learned in place: the same seed gives the same bytes."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core.draws import generator
from modalities.core.peft_layers import folded
from modalities.core.recipe import Sample
from modalities.core.studio import Studio
from modalities.video.backbone import VideoBackbone
from modalities.video.components.first_frame import FirstFrame
from modalities.video.components.footage import Footage
from modalities.video.components.initial_noise import InitialNoise
from modalities.video.components.motion_guidance import MOTION, MotionGuidance
from modalities.video.sampler import clips_from


def clip_of_studio(
    studio: Studio,
    prompt: str,
    *,
    seed: int,
    index: int,
    sample: Sample | None = None,
    inverted: Float[Tensor, "n c f h w"] | None = None,
) -> Float[Tensor, "f 3 h w"]:
    """Generate clip number `index` of a seed, in [0, 1], with what was learned in place.

    Args:
        studio: the base with a recipe's components.
        prompt: what to show.
        seed: of the noise.
        index: which clip of this seed.
        sample: how to draw; None is as the recipe says.
        inverted: the inverted noise of the learned clips; `index` chooses among them in turn.
    """
    backbone = studio.backbone
    assert isinstance(backbone, VideoBackbone)
    start = _start(studio, seed, index, inverted).to(backbone.device)
    leaders = [part for part in studio.components if isinstance(part, MotionGuidance) and part.leads]
    apart = MOTION if leaders else None
    with studio.sampling(), folded(backbone.modules().values(), apart=apart) as without:
        backbone.forget_text()
        how = sample or studio.recipe.sample
        first = _first(studio, prompt, start, how)
        leads = [partial(part.lead, without=without) for part in leaders]
        latents = clips_from(backbone, start[None], [prompt], how, first, leads)
        with torch.no_grad():
            made = backbone.decode_clips(latents)[0].cpu()
    backbone.forget_text()
    return made


def frames_of(studio: Studio) -> int:
    """Frames of the clips that a studio makes."""
    footage = next((part for part in studio.components if isinstance(part, Footage)), None)
    backbone = studio.backbone
    assert isinstance(backbone, VideoBackbone)
    return footage.count if footage else backbone.usual_frames


def _first(studio: Studio, prompt: str, start: Tensor, sample: Sample) -> Tensor | None:
    """The frame that a clip is to begin with, `(1, C, h, w)`: a given picture, or one drawn of the prompt."""
    part = next((part for part in studio.components if isinstance(part, FirstFrame)), None)
    if part is None:
        return None
    given = part.latents()
    return clips_from(studio.backbone, start[None, :, 0], [prompt], sample) if given is None else given


def _start(studio: Studio, seed: int, index: int, inverted: Tensor | None) -> Tensor:
    """What a clip is drawn from, `(C, F, h, w)`; of (seed, index) alone, and of the learned clips if asked."""
    backbone = studio.backbone
    assert isinstance(backbone, VideoBackbone)
    shape = backbone.latent_shape(frames_of(studio), studio.resolution)
    z = torch.randn(*shape, generator=generator(seed, "sample", index))
    policy = next((part for part in studio.components if isinstance(part, InitialNoise)), None)
    if policy is None:
        return z
    offset = torch.randn(shape[0], 1, 1, 1, generator=generator(seed, "offset", index))
    return policy.mixed(z, offset, None if inverted is None else inverted[index % len(inverted)])
