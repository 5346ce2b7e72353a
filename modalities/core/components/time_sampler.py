"""Which times are trained at, where these are not the base's own.

"cosine" favours noise, where layout and relations are decided (ReVersion, Huang et al., SIGGRAPH Asia 2024, eq. 6,
https://arxiv.org/abs/2303.13495). "log_snr" draws the logarithm of the SNR from a normal distribution
(Style-Friendly SNR, Choi et al., CVPR 2025, section 4, https://arxiv.org/abs/2411.14793).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from modalities.core.component import Component

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from modalities.core.step import Batch
    from modalities.core.studio import Studio

Share = Annotated[float, Field(ge=0, le=1)]


class TimeSampler(Component):
    """Draws the times of all items from another density; list it before components that add items."""

    density: Literal["uniform", "cosine", "log_snr"] = "uniform"
    skew: Share = 0.5
    """Of "cosine": how much rarer the cleanest time is than the mean."""
    mean: float = -6.0
    std: Annotated[float, Field(gt=0)] = 2.0
    """Of "log_snr"."""
    low: Share = 0.0
    high: Share = 1.0
    """Only times between these shares of the whole, 0 the cleanest."""

    _upto: Tensor = PrivateAttr()
    _times: Tensor = PrivateAttr()

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        schedule = studio.backbone.schedule
        self._times = schedule.times
        self._upto = self._densities(schedule).double().cumsum(0)

    def _densities(self, schedule: Any) -> Tensor:
        """How likely each time is, up to a factor."""
        import torch

        share = (torch.arange(len(self._times)) + 0.5) / len(self._times)
        if self.density == "cosine":
            found = 1 - self.skew * torch.cos(torch.pi * share)
        elif self.density == "log_snr":
            log_snr = schedule.signal_to_noise(self._times).clamp(1e-12, 1e12).log()
            (slope,) = torch.gradient(log_snr)
            found = torch.exp(-0.5 * ((log_snr - self.mean) / self.std) ** 2) * slope.abs()
        else:
            found = torch.ones_like(share)
        return found * ((share >= self.low) & (share <= self.high))

    def batch(self, batch: Batch) -> Batch:
        import torch

        uniform = self.studio.draws.uniform("time sampler", batch.positions).double()
        place = torch.searchsorted(self._upto, uniform * self._upto[-1], right=True)
        return replace(batch, t=self._times[place.clamp(max=len(self._times) - 1)].to(batch.t))
