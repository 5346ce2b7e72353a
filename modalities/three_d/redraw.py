"""Draws pictures once more (SDEdit: Meng et al., ICLR 2022, algorithm 1), with DDIM steps (Song et al., ICLR 2021).

https://arxiv.org/abs/2108.01073 and https://arxiv.org/abs/2010.02502 (eq. 12, eta 0), for every schedule of the core.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core.backbone import Backbone
from modalities.three_d.components.score_distillation import guided


@torch.no_grad()
def redraw(
    backbone: Backbone,
    pictures: Float[Tensor, "b 3 side side"],
    prompts: Sequence[str],
    noise: Float[Tensor, "b c h w"],
    *,
    strength: float,
    steps: int,
    guidance: float,
    negative_prompt: str = "",
) -> Float[Tensor, "b 3 side side"]:
    """Noise pictures in [0, 1] up to the share `strength` of the base's times, and let the base draw them anew.

    Args:
        backbone: with what was learned in place.
        pictures: at the base's resolution.
        prompts: one for each.
        noise: standard normal, of the shape of the latents.
        strength: 0 leaves them, 1 is a new drawing.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        negative_prompt: what the guidance leads away from.
    """
    schedule, count = backbone.schedule, len(prompts)
    posterior = backbone.encode(pictures)
    clean = posterior.sample(torch.zeros_like(posterior.mean))
    last = round(strength * (len(schedule.times) - 1))
    places = torch.linspace(last, 0, steps + 1).round().long()[:-1]
    words = backbone.conditioning((*prompts, *[negative_prompt] * count))
    for place in places.tolist():
        t = schedule.times[place].to(clean.device).expand(count)
        noisy = schedule.noised(clean, noise, t)
        both = backbone.predict(torch.cat([noisy, noisy]), torch.cat([t, t]), words).float()
        clean = schedule.clean(noisy, guided(both[:count], both[count:], guidance), t)
        # The noise that is left if this is the clean picture; noising is linear in both.
        nothing = torch.zeros_like(clean)
        noise = (noisy - schedule.noised(clean, nothing, t)) / schedule.noised(nothing, torch.ones_like(clean), t)
    return backbone.decode(clean)
