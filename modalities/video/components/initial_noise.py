"""What a clip is drawn from: Gaussian noise, noise that its frames share, or the noise that the learned clip came from.

Inverted noise with a share p is MotionDirector's noise prior (Zhao et al., ECCV 2024, https://arxiv.org/abs/2310.08465);
frames that correlate by gamma^|m - n| are the 3D Gaussian noise prior of Magic-Me (Ma et al., 2024,
https://arxiv.org/abs/2402.09368); frames that share a part of one noise are LAMP's (Wu et al., CVPR 2024,
https://arxiv.org/abs/2310.10769).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from torch import Tensor


class InitialNoise(Component):
    """Every policy keeps unit variance, except the offset; they may be combined."""

    draws: ClassVar[bool] = True

    inverted: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share p of the inverted noise of a learned clip: `sqrt(p) z_inv + sqrt(1 - p) z`."""
    correlated: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """gamma: frames m and n of z correlate by gamma^|m - n|."""
    shared: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share s of one noise in every frame: `sqrt(s) z_0 + sqrt(1 - s) z_f`; the first frame is z_0 itself."""
    offset: Annotated[float, Field(ge=0)] = 0.0
    """Adds this much of one normal value for each channel to all of its pixels and frames."""

    def mixed(self, z: Tensor, offset: Tensor, inverted: Tensor | None) -> Tensor:
        """Turn standard normal values `(C, F, h, w)` into the start of a clip.

        Args:
            z: standard normal.
            offset: standard normal, `(C, 1, 1, 1)`.
            inverted: the inverted noise of a clip, or None if there is none.

        Raises:
            PcsError: the clip was inverted with other frames or at another size.
        """
        if self.correlated:
            z = correlate(z, self.correlated)
        if self.shared:
            z = share(z, self.shared)
        z = z + self.offset * offset
        if self.inverted and inverted is not None:
            if inverted.shape != z.shape:
                raise PcsError(
                    "data.resolution, components.footage.frames: the run's clip was inverted with other ones; "
                    "leave them, or add --noise-prior 0."
                )
            z = self.inverted**0.5 * inverted + (1 - self.inverted) ** 0.5 * z
        return z


def share(z: Tensor, part: float) -> Tensor:
    """Give every frame of standard normal `(C, F, h, w)` a part of the first one's noise."""
    import torch

    rest = part**0.5 * z[:, :1] + (1 - part) ** 0.5 * z[:, 1:]
    return torch.cat([z[:, :1], rest], 1)


def correlate(z: Tensor, gamma: float) -> Tensor:
    """Mix the frames of standard normal `(C, F, h, w)` so that frames m and n correlate by gamma^|m - n|."""
    import torch

    places = torch.arange(z.shape[1], dtype=torch.float64)
    covariance = gamma ** (places[:, None] - places[None]).abs()
    return torch.einsum("mn,cnhw->cmhw", torch.linalg.cholesky(covariance).to(z), z)
