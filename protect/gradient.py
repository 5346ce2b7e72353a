"""The gradient of the objective at the pixels, by four ways of different cost."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core.backbone import Backbone, Posterior
from modalities.core.step import Batch, Step, denoise
from protect.erasure import looking
from protect.objective import OF_ATTENTION, OF_ENCODER, Seen, total
from protect.recipe import Term


@dataclass(frozen=True)
class Question:
    """What the base is asked about a batch of views: everything but the pixels.

    Attributes:
        original, target: as in `Seen`.
        normal: standard normal values for the sample of the latents, their shape.
        noise, t, prompts: as in a training batch.
        identifier: the subject's word in the prompts.
    """

    original: Posterior
    target: Posterior
    normal: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b c h w"]
    t: Tensor
    prompts: tuple[str, ...]
    identifier: str

    def batch(self, latents: Tensor) -> Batch:
        """The training batch of these latents."""
        count = len(self.prompts)
        plain = torch.zeros(count, dtype=torch.bool, device=latents.device)
        return Batch(latents, self.noise, self.t, self.prompts, tuple(range(count)), plain)


def of_pixels(
    backbone: Backbone, terms: list[Term], way: str, pixels: Float[Tensor, "b 3 h w"], question: Question
) -> tuple[Float[Tensor, "b 3 h w"], Step | None]:
    """The gradient of the objective at the pixels, and the base's answer on the way, detached.

    `two_stage` (Zheng et al., 2023, section 4.3, https://arxiv.org/abs/2310.04687) gives the same numbers as `full`,
    holding the activations of the denoiser and of the autoencoder one after the other. `vae_only` takes the denoiser's
    residual for the gradient at its input (Xue et al., ICLR 2024, eq. 6, https://arxiv.org/abs/2311.00710).
    """
    leaf = pixels.detach().requires_grad_()
    of_latents = [term for term in terms if term.term not in OF_ENCODER]
    of_encoder = [term for term in terms if term.term in OF_ENCODER]
    posterior = None
    if way == "two_stage":
        with torch.no_grad():
            latents = backbone.encode(leaf).sample(question.normal)
    else:
        posterior = backbone.encode(leaf)
        latents = posterior.sample(question.normal).detach()
    at_latents, step = _at_latents(backbone, of_latents, way, latents, question)
    posterior = posterior or backbone.encode(leaf)
    value = torch.zeros((), device=leaf.device)
    if at_latents is not None:
        value = value + (posterior.sample(question.normal) * at_latents).sum()
    if of_encoder:
        seen = Seen(posterior, question.original, question.target, None, backbone.schedule)
        value = value + total(of_encoder, seen)
    (at_pixels,) = torch.autograd.grad(value, leaf)
    return at_pixels, step


def _at_latents(
    backbone: Backbone, terms: list[Term], way: str, latents: Tensor, question: Question
) -> tuple[Tensor | None, Step | None]:
    """The gradient at the latents of the terms that ask the denoiser."""
    if not terms or way == "encoder":
        return None, None
    if way == "vae_only":
        with torch.no_grad():
            step = denoise(backbone, question.batch(latents))
        signs = sum(term.weight * (1 if term.goal == "max" else -1) for term in terms)
        return signs * (step.prediction - step.target), step
    leaf = latents.requires_grad_()
    with ExitStack() as stack:
        looks = None
        if any(term.term in OF_ATTENTION for term in terms):
            looks = stack.enter_context(looking(backbone, question.prompts, question.identifier))
        step = denoise(backbone, question.batch(leaf))
    unused = Posterior(leaf, torch.zeros_like(leaf), 0.0, 1.0)
    value = total(terms, Seen(unused, question.original, question.target, step, backbone.schedule, looks))
    (gradient,) = torch.autograd.grad(value, leaf)
    return gradient, _detached(step)


def _detached(step: Step) -> Step:
    return Step(step.latents.detach(), step.noise, step.t, step.prediction.detach(), step.target.detach(), step.weight)
