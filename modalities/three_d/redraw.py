"""Draws pictures once more (SDEdit: Meng et al., ICLR 2022, algorithm 1), with DDIM steps (Song et al., ICLR 2021).

https://arxiv.org/abs/2108.01073 and https://arxiv.org/abs/2010.02502 (eq. 12, eta 0), for every schedule of the core.
DreamBooth3D makes its pseudo views so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core.backbone import Backbone
from modalities.core.draws import Draws
from modalities.core.progress import Progress
from modalities.core.recipe import Recipe
from modalities.core.studio import Studio
from modalities.three_d.cameras import turntable
from modalities.three_d.components.dreambooth import Dreambooth
from modalities.three_d.components.orbit import Orbit
from modalities.three_d.components.score_distillation import guided
from modalities.three_d.components.view_prompts import ViewPrompts
from modalities.three_d.outputs import pictures as rendered
from modalities.three_d.part import part_of
from modalities.three_d.pseudo_views import PseudoViews

# From where pseudo views are taken, in turn, in degrees.
ELEVATIONS = (10.0, 30.0)


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


def redrawn_views(
    scene: Studio, prior: Studio, recipe: Recipe, prompts: Sequence[str], progress: Progress
) -> PseudoViews:
    """Render a scene from all around and let the base redraw every picture by itself.

    DreamBooth3D (Raj et al., ICCV 2023, section 3.2, stage 2), https://arxiv.org/abs/2303.13508.

    Args:
        scene: opened by `open_scene`.
        prior: the run that knows the subject best, opened to generate.
        recipe: with the component `dreambooth`, which says how many and how strongly.
        prompts: what the pictures show, in turn, each before its own place; a word for the view is added.
        progress: told where the work stands.
    """
    settings, backbone = part_of(recipe, Dreambooth), prior.backbone
    orbit, words = part_of(scene, Orbit), part_of(scene, ViewPrompts)
    count, draws = settings.views, Draws(recipe.train.seed)
    views = turntable(count, distance=sum(orbit.distance) / 2, field_of_view=sum(orbit.field_of_view) / 2)
    elevations = torch.tensor([ELEVATIONS[number % 2] for number in range(count)])
    views = replace(views, elevation=elevations)
    places = tuple(number % len(prompts) for number in range(count))
    drawn = list[Tensor]()
    progress.start("pseudo views", count)
    with prior.sampling():
        for number, place in enumerate(places):
            seen = rendered(scene, views[number : number + 1], backbone.resolution, place=place)
            word = words.word(float(views.azimuth[number]), float(views.elevation[number]))
            shape = backbone.encode(seen).mean.shape[1:]
            anew = redraw(
                backbone,
                seen,
                [prompts[place] + word],
                draws.normal("pseudo view", [number], shape).to(backbone.device),
                strength=settings.strength,
                steps=recipe.sample.steps,
                guidance=recipe.sample.guidance,
            )
            drawn.append(anew.cpu())
            progress.advance()
    return PseudoViews(torch.cat(drawn), views, places)
