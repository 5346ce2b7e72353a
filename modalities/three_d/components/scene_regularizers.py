"""What keeps a scene free of fog and noise: DreamFusion's opacity penalty (Poole et al., ICLR 2023, appendix A.1),
the entropy of opacity, Ref-NeRF's orientation loss (Verbin et al., CVPR 2022, eq. 11), and smooth factors (TensoRF).

https://arxiv.org/abs/2209.14988, https://arxiv.org/abs/2112.03907, https://arxiv.org/abs/2203.09517
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from modalities.three_d.components.nerf import Nerf
from modalities.three_d.part import ScenePart, part_of, progress_at, scene_of

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.three_d.renderer import Rendering

Weight = Annotated[float, Field(ge=0)]
STEP = 0.02


class SceneRegularizers(ScenePart):
    """Weights of the penalties; each is a mean over pixels, rays or cells.

    What is solid has no fog to be cleared and shows no backs: of it only the colours are made smooth.
    """

    opacity: Weight = 0.0
    """Against covering more of the picture than needed: mean of sqrt(opacity^2 + 0.01)."""
    entropy: Weight = 0.0
    """Against half-transparent pixels; grows from 0 over the run."""
    orientation: Weight = 0.0
    """Against visible surfaces that face away from the camera."""
    smoothness: Weight = 0.0
    """Against differences of neighbouring cells."""

    def penalty(self, rendering: Rendering, positions: Sequence[int]) -> Tensor | None:
        field = part_of(self.studio, Nerf).field
        total = rendering.opacity.sum() * 0
        is_fog = not scene_of(self.studio).is_solid
        if self.opacity and is_fog:
            total = total + self.opacity * (rendering.opacity.square() + 0.01).sqrt().mean()
        if self.entropy and is_fog:
            opacity = rendering.opacity.clamp(1e-3, 1 - 1e-3)
            entropy = -(opacity * opacity.log() + (1 - opacity) * (1 - opacity).log()).mean()
            total = total + self.entropy * progress_at(self.studio, positions) * entropy
        if self.orientation and is_fog:
            total = total + self.orientation * self._facing_away(rendering)
        if self.smoothness:
            total = total + self.smoothness * field.roughness()
        return total

    def _facing_away(self, rendering: Rendering) -> Tensor:
        """How much of what is seen shows its back; normals are differences of the density."""
        import torch

        field, points = part_of(self.studio, Nerf).field, rendering.points
        shifts = torch.eye(3, device=points.device) * STEP
        rises = [field.densities(points + shift) - field.densities(points - shift) for shift in shifts]
        normals = -torch.nn.functional.normalize(torch.stack(rises, dim=-1), dim=-1, eps=1e-6)
        away = (normals * rendering.directions).sum(-1).clamp(min=0).square()
        return (rendering.weights.detach() * away).sum() / rendering.opacity.numel()
