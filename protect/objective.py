"""What the ascent is after: functions of what the base makes of a picture, one value a photo, named as in the papers.

The sign and the weight are the recipe's; each function gives what its paper writes down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core.backbone import Posterior
from modalities.core.draws import generator
from modalities.core.errors import PcsError, did_you_mean
from modalities.core.media import square
from modalities.core.schedule import Schedule
from modalities.core.step import Step
from protect.erasure import Looks
from protect.recipe import Ascent, Term

PATTERN_TILES = 8


@dataclass(frozen=True)
class Seen:
    """What is known of a batch of views.

    Attributes:
        posterior: of the views as they are now.
        original: of the same views of the untouched photos.
        target: of the picture that targeted terms pull towards, `(1, ...)`.
        step: the base's question and answer; None where the gradient does not pass the denoiser.
        schedule: of the base.
        looks: the denoiser's cross-attention; None where no term is of it.
    """

    posterior: Posterior
    original: Posterior
    target: Posterior
    step: Step | None
    schedule: Schedule
    looks: Looks | None = None

    @property
    def answer(self) -> Step:
        assert self.step is not None, "terms of the denoiser are not asked for where it does not answer"
        return self.step


Value = Float[Tensor, " b"]


def denoise(seen: Seen) -> Value:
    """The training loss itself (AdvDM, Liang et al., ICML 2023, eq. 4; Anti-DreamBooth, Van Le et al., ICCV 2023,
    eq. 6). https://arxiv.org/abs/2302.04578"""
    return seen.answer.error


def target_answer(seen: Seen) -> Value:
    """Distance of the denoiser's answer from the target's latents (Mist-v2, Zheng et al., 2023).

    https://arxiv.org/abs/2310.04687"""
    latents = seen.target.sample(torch.zeros_like(seen.target.mean))
    return _mean((seen.answer.prediction - latents) ** 2)


def target_step(seen: Seen) -> Value:
    """Distance of the clean latents that the answer implies from the target's (targeted Anti-DreamBooth, section 4.4,
    written for any schedule). https://arxiv.org/abs/2303.15433"""
    step = seen.answer
    noisy = seen.schedule.noised(step.latents, step.noise, step.t)
    clean = seen.schedule.clean(noisy, step.prediction, step.t)
    return _mean((clean - seen.target.sample(torch.zeros_like(seen.target.mean))) ** 2)


def token_attention(seen: Seen) -> Value:
    """How little the subject's word is attended to (DisDiff, Liu et al., ACM MM 2024, section 4.1).

    https://arxiv.org/abs/2405.20584
    """
    assert seen.looks is not None, "attention is kept wherever this term is asked for"
    return seen.looks.erased()


def latent_norm(seen: Seen) -> Value:
    """Size of the encoding (PhotoGuard's encoder attack towards grey, Salman et al., ICML 2023, eq. 3).

    https://arxiv.org/abs/2302.06588"""
    return _mean(seen.posterior.mean**2)


def latent_target(seen: Seen) -> Value:
    """Distance of the encoding from the target's (PhotoGuard, eq. 3; Mist's textural loss, Liang & Wu, 2023).

    https://arxiv.org/abs/2305.12683"""
    return _mean((seen.posterior.mean - seen.target.mean) ** 2)


def latent_shift(seen: Seen) -> Value:
    """Distance of the encoding from the untouched photo's: PhotoGuard's, with no target."""
    return _mean((seen.posterior.mean - seen.original.mean) ** 2)


TERMS: dict[str, Callable[[Seen], Value]] = {
    term.__name__: term
    for term in (denoise, target_answer, target_step, token_attention, latent_norm, latent_target, latent_shift)
}
# What the encoder alone can answer.
OF_ENCODER = frozenset({"latent_norm", "latent_target", "latent_shift"})
OF_ATTENTION = frozenset({"token_attention"})


def _mean(squares: Tensor) -> Value:
    return squares.flatten(1).mean(1)


def total(terms: list[Term], seen: Seen) -> Tensor:
    """The sum over photos of all terms with sign and weight: what the ascent makes larger; a scalar."""
    parts = [term.weight * (1 if term.goal == "max" else -1) * TERMS[term.term](seen).sum() for term in terms]
    return torch.stack(parts).sum()


def checked(terms: list[Term], ascent: Ascent) -> None:
    """Check that there are such terms, and that the gradient's way passes what they need.

    Raises:
        PcsError: names the first that is not.
    """
    for number, term in enumerate(terms):
        where = f"objective.{number}"
        if term.term not in TERMS:
            raise PcsError(f'{where}.term: unknown "{term.term}"; {did_you_mean(term.term, TERMS)}')
        if ascent.gradient == "encoder" and term.term not in OF_ENCODER:
            raise PcsError(f"{where}.term: {term.term} asks the denoiser, which ascent.gradient=encoder does not.")
        if ascent.gradient == "vae_only" and term.term not in OF_ENCODER | {"denoise"}:
            raise PcsError(f"{where}.term: ascent.gradient=vae_only has no gradient of {term.term}.")
        if ascent.start == "zero" and {term.term for term in terms} == {"latent_shift"}:
            raise PcsError(f"{where}.term: latent_shift has no gradient at the photo itself; set ascent.start=random.")
        if term.image is not None and not term.image.is_file():
            raise PcsError(f"{where}.image: there is no file {term.image}.")


def target_pixels(terms: list[Term], resolution: int) -> Float[Tensor, "3 h w"]:
    """The target picture in [0, 1]: the first that a term names, or black and white tiles of chance."""
    for term in terms:
        if term.image is not None:
            from modalities.core.media import read_photo

            return square(read_photo(term.image).open(), resolution)
    tiles = torch.randint(0, 2, (1, PATTERN_TILES, PATTERN_TILES), generator=generator("target")).float()
    return torch.nn.functional.interpolate(tiles[None], size=(resolution, resolution))[0].expand(3, -1, -1).contiguous()
