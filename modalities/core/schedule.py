"""How noise is added and what a model predicts: the only module that knows epsilon from v from flow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor


class Schedule(ABC):
    """The forward process of one base model. Latents, noise and predictions are `(B, ...)` float32."""

    length: int
    """Times run from 0, clean, to this."""

    @abstractmethod
    def timesteps(self, uniform: Float[Tensor, " b"]) -> Num[Tensor, " b"]:
        """Map uniform draws in [0, 1) to the timesteps that the base was trained at, with its density."""

    @property
    @abstractmethod
    def times(self) -> Num[Tensor, " n"]:
        """All timesteps, from the cleanest to the noisiest."""

    @abstractmethod
    def noised(
        self, latents: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Num[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Add `noise` to clean `latents` as at time `t`."""

    @abstractmethod
    def target(
        self, latents: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Num[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """What a perfect model would predict."""

    @abstractmethod
    def clean(
        self, noisy: Float[Tensor, "b ..."], prediction: Float[Tensor, "b ..."], t: Num[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """The clean latents that `prediction` implies."""

    @abstractmethod
    def signal_to_noise(self, t: Num[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Signal power over noise power at time `t`."""


class DiffusionSchedule(Schedule):
    """DDPM (Ho et al., NeurIPS 2020, https://arxiv.org/abs/2006.11239) with epsilon, v or sample prediction.

    v is that of Salimans & Ho (ICLR 2022, https://arxiv.org/abs/2202.00512), Appendix D.
    """

    def __init__(self, scheduler_config: dict[str, Any]) -> None:
        """Read a diffusers scheduler's config: betas, number of timesteps, prediction type."""
        from diffusers import DDPMScheduler

        self._scheduler: Any = DDPMScheduler.from_config(scheduler_config)
        self._alphas: Tensor = self._scheduler.alphas_cumprod
        self.length = self._scheduler.config.num_train_timesteps
        self.prediction_type: str = self._scheduler.config.prediction_type

    @property
    def times(self) -> Num[Tensor, " n"]:
        return torch.arange(self.length)

    def timesteps(self, uniform: Float[Tensor, " b"]) -> Num[Tensor, " b"]:
        return (uniform * self.length).long().clamp(max=self.length - 1)

    def noised(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return self._scheduler.add_noise(latents, noise, t)

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            return self._scheduler.get_velocity(latents, noise, t)
        return latents

    def clean(self, noisy: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        if self.prediction_type == "sample":
            return prediction
        alpha = self._alpha(t, noisy)
        if self.prediction_type == "epsilon":
            return (noisy - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * prediction

    def signal_to_noise(self, t: Tensor) -> Tensor:
        alpha = self._alphas.to(t.device)[t]
        return alpha / (1 - alpha)

    def _alpha(self, t: Tensor, like: Tensor) -> Tensor:
        return self._alphas.to(like.device)[t].view(-1, *[1] * (like.ndim - 1))


class FlowSchedule(Schedule):
    """Rectified flow as Stable Diffusion 3 trains it (Esser et al., ICML 2024, https://arxiv.org/abs/2403.03206).

    `noisy = (1 - sigma) latents + sigma noise`, the model predicts `noise - latents`, and times are drawn
    logit-normally (section 3.1) before the base's own shift.
    """

    def __init__(self, scheduler_config: dict[str, Any]) -> None:
        """Read the config of a `FlowMatchEulerDiscreteScheduler`."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(scheduler_config)
        self.length = scheduler.config.num_train_timesteps
        self._times: Tensor = scheduler.timesteps

    @property
    def times(self) -> Num[Tensor, " n"]:
        return self._times.sort().values

    def timesteps(self, uniform: Float[Tensor, " b"]) -> Num[Tensor, " b"]:
        normal = torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6))
        index = (torch.sigmoid(normal) * self.length).long().clamp(max=self.length - 1)
        return self._times.to(uniform.device)[index]

    def noised(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        sigma = self._sigma(t, latents)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - latents

    def clean(self, noisy: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        return noisy - self._sigma(t, noisy) * prediction

    def signal_to_noise(self, t: Tensor) -> Tensor:
        sigma = t / self.length
        return ((1 - sigma) / sigma) ** 2

    def _sigma(self, t: Tensor, like: Tensor) -> Tensor:
        return (t / self.length).to(like.dtype).view(-1, *[1] * (like.ndim - 1))
