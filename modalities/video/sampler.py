"""Clips from noise and noise from clips, on the schedule of any base.

DPM-Solver++ of second order (Lu et al., 2022, https://arxiv.org/abs/2211.01095) forwards, DDIM (Song et al., ICLR 2021,
https://arxiv.org/abs/2010.02502) backwards; both are the same formulas for diffusion and for flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core.backbone import Backbone, Conditioning
from modalities.core.recipe import Sample
from modalities.core.schedule import Schedule

Lead = Callable[[Tensor, Tensor, Conditioning, Tensor], Tensor]
"""Of noisy latents `(B, C, F, h, w)`, times `(B,)`, what is asked and the answers: what is added after guidance."""


def clips_from(
    backbone: Backbone,
    start: Float[Tensor, "b ..."],
    prompts: Sequence[str],
    sample: Sample,
    first: Float[Tensor, "b c h w"] | None = None,
    leads: Sequence[Lead] = (),
) -> Float[Tensor, "b ..."]:
    """Draw latents, of clips `(B, C, F, h, w)` or pictures `(B, C, h, w)`, from the noise `start`.

    first: latents of the first frames, if these are given. leads: asked at every step.
    """
    guided = sample.guidance != 1
    said = [*prompts, *[sample.negative_prompt] * len(prompts)] if guided else list(prompts)
    conditioning = backbone.conditioning(said)
    times = _times(backbone.schedule, sample.steps)
    noisy, previous, previous_span = start, None, 0.0
    with torch.no_grad():
        for here, there in pairwise([*times, None]):
            assert here is not None
            noisy = _begun(noisy, first)
            clean = _clean(backbone, noisy, here, conditioning, sample.guidance if guided else None, leads)
            signal, noise = _rates(backbone.schedule, here)
            next_signal, next_noise = (1.0, 0.0) if there is None else _rates(backbone.schedule, there)
            span = math.inf if next_noise == 0 else _log_ratio(next_signal, next_noise) - _log_ratio(signal, noise)
            guess = clean
            if previous is not None and math.isfinite(span) and math.isfinite(previous_span):
                guess = clean + span / (2 * previous_span) * (clean - previous)
            noisy = next_noise / noise * noisy + (next_signal - next_noise * signal / noise) * guess
            previous, previous_span = clean, span
    return _begun(noisy, first)


def _begun(clips: Tensor, first: Tensor | None) -> Tensor:
    """Clips with `first` as their first frame, as clean as it is at every time."""
    return clips if first is None else torch.cat([first[:, :, None], clips[:, :, 1:]], 2)


def inverted(
    backbone: Backbone, latents: Float[Tensor, "b ..."], prompts: Sequence[str], steps: int
) -> Float[Tensor, "b ..."]:
    """The noise that latents come from, by DDIM backwards without guidance."""
    conditioning = backbone.conditioning(list(prompts))
    times = _times(backbone.schedule, steps)[::-1]
    noisy = latents
    with torch.no_grad():
        # The clean end has no time of its own: there the first question is asked at the next one.
        for here, there in pairwise([times[0], *times]):
            signal, noise = _rates(backbone.schedule, here)
            seen = _clean(backbone, noisy, here, conditioning, None)
            epsilon = (noisy - signal * seen) / noise
            clean = latents if noisy is latents else seen
            signal, noise = _rates(backbone.schedule, there)
            noisy = signal * clean + noise * epsilon
    return noisy


def _clean(
    backbone: Backbone,
    noisy: Tensor,
    t: float,
    conditioning: Conditioning,
    guidance: float | None,
    leads: Sequence[Lead] = (),
) -> Tensor:
    """The clean latents that the base sees, with classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598)."""
    count = len(noisy)
    times = _spread(t, count, backbone)
    if guidance is None:
        answer = said = backbone.predict(noisy, times, conditioning).float()
    else:
        twice = backbone.predict(torch.cat([noisy, noisy]), torch.cat([times, times]), conditioning).float()
        said, unsaid = twice.chunk(2)
        answer = unsaid + guidance * (said - unsaid)
    asked = conditioning.rows(range(count))
    for lead in leads:
        answer = answer + lead(noisy, times, asked, said)
    return backbone.schedule.clean(noisy, answer, times)


def _spread(t: float, count: int, backbone: Backbone) -> Tensor:
    dtype = backbone.schedule.times.dtype
    return torch.full((count,), t, dtype=dtype, device=backbone.device)


def _times(schedule: Schedule, steps: int) -> list[float]:
    """`steps` times from the noisiest down, evenly spaced, the clean end left out."""
    last = len(schedule.times) - 1
    places = torch.linspace(last, 0, steps + 1).round().long()[:-1]
    return [float(time) for time in schedule.times[places]]


def _rates(schedule: Schedule, t: float) -> tuple[float, float]:
    """How much signal and how much noise there is at a time."""
    one, nothing = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    times = torch.tensor([t], dtype=schedule.times.dtype)
    return float(schedule.noised(one, nothing, times)), float(schedule.noised(nothing, one, times))


def _log_ratio(signal: float, noise: float) -> float:
    return math.log(signal / noise) if signal > 0 else -math.inf
