"""The one question that every method asks a frozen denoiser, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

if TYPE_CHECKING:
    from modalities.core.backbone import Backbone


@dataclass(frozen=True)
class Batch:
    """One step's items; the first axis of everything is the batch.

    Attributes:
        latents: clean latents, float32 `(B, C, H, W)` (videos: `(B, C, F, H, W)`).
        noise: what is added to them, same shape.
        t: timesteps of the base's schedule, `(B,)`.
        prompts: B prompts.
        positions: B places in the run's sequence of items, which key their randomness.
        is_prior: `(B,)`, True for items that only preserve what the base knows of the class.
        target: what the model should predict, where it is not the schedule's own target; same shape as the
            latents, NaN in the items that keep the schedule's.
        weight: of the squared errors, of mean 1 where it should not change an item's say; shape of the latents.
    """

    latents: Float[Tensor, "b ..."]
    noise: Float[Tensor, "b ..."]
    t: Num[Tensor, " b"]
    prompts: tuple[str, ...]
    positions: tuple[int, ...]
    is_prior: Bool[Tensor, " b"]
    target: Float[Tensor, "b ..."] | None = None
    weight: Float[Tensor, "b ..."] | None = None

    def part(self, start: int, stop: int) -> Batch:
        """Return the items from `start` up to `stop`."""
        return Batch(
            latents=self.latents[start:stop],
            noise=self.noise[start:stop],
            t=self.t[start:stop],
            prompts=self.prompts[start:stop],
            positions=self.positions[start:stop],
            is_prior=self.is_prior[start:stop],
            target=None if self.target is None else self.target[start:stop],
            weight=None if self.weight is None else self.weight[start:stop],
        )

    def joined(self, other: Batch) -> Batch:
        """Return the items of both, these first."""
        return replace(
            self,
            latents=torch.cat([self.latents, other.latents]),
            noise=torch.cat([self.noise, other.noise]),
            t=torch.cat([self.t, other.t]),
            prompts=self.prompts + other.prompts,
            positions=self.positions + other.positions,
            is_prior=torch.cat([self.is_prior, other.is_prior]),
            target=_joined((self, self.target), (other, other.target), torch.nan),
            weight=_joined((self, self.weight), (other, other.weight), 1.0),
        )

    def weighed(self, weight: Float[Tensor, "b ..."]) -> Batch:
        """Multiply the weights of all items; `weight` may be of any shape that spreads over the latents."""
        own = torch.ones_like(self.latents) if self.weight is None else self.weight
        return replace(self, weight=own * weight)


def _joined(first: tuple[Batch, Tensor | None], second: tuple[Batch, Tensor | None], blank: float) -> Tensor | None:
    """Both parts one after the other, `blank` for the one that is not there."""
    if first[1] is None and second[1] is None:
        return None
    return torch.cat([torch.full_like(b.latents, blank) if part is None else part for b, part in (first, second)])


@dataclass(frozen=True)
class Step:
    """What one step saw and said; all `(B, ...)` float32, `t` is `(B,)`."""

    latents: Float[Tensor, "b ..."]
    noise: Float[Tensor, "b ..."]
    t: Num[Tensor, " b"]
    prediction: Float[Tensor, "b ..."]
    target: Float[Tensor, "b ..."]
    weight: Float[Tensor, "b ..."] | None = None

    @property
    def error(self) -> Float[Tensor, " b"]:
        """Mean squared error of each item, weighed."""
        return self.weighed(torch.nn.functional.mse_loss(self.prediction, self.target, reduction="none"))

    def weighed(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """The mean of each item's values, one for each number of the latents, with the weights of the batch."""
        return (values if self.weight is None else values * self.weight).flatten(1).mean(1)


def denoise(backbone: Backbone, batch: Batch) -> Step:
    """Noise the batch, ask the base what it sees, and return question and answer, differentiable in every leaf.

    Gradients reach adapter weights and embeddings (training), the latents (score distillation) and whatever the
    latents were made of (protection).
    """
    noisy = backbone.schedule.noised(batch.latents, batch.noise, batch.t)
    prediction = backbone.predict(noisy, batch.t, backbone.conditioning(batch.prompts))
    target = backbone.schedule.target(batch.latents, batch.noise, batch.t)
    if batch.target is not None:
        target = torch.where(batch.target.isnan(), target, batch.target)
    return Step(batch.latents, batch.noise, batch.t, prediction.float(), target, batch.weight)
