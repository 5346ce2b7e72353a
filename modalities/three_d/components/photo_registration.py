"""Photos as views of the scene, from cameras that are found and then learn with it.

iNeRF (Yen-Chen et al., IROS 2021, https://arxiv.org/abs/2012.05877) finds the camera of a photo by rendering a scene;
NeRF-- (Wang et al., 2021, https://arxiv.org/abs/2102.07064) lets cameras and scene learn together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.media import MaskSource

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from modalities.core.studio import Studio
    from modalities.three_d.cameras import Views

# What a correction of 1 means, in degrees.
AROUND, UP = 100.0, 50.0
LOWEST, HIGHEST = -30.0, 85.0


class PhotoRegistration(Component):
    """Adds a stage that finds from where each photo was taken, and another scene that also looks like the photos.

    See `registration.register` for how they are found. `reconstruction` says how much the photos weigh.
    Things made or grown are mostly symmetric, and shapes that are held to be so need fewer views (Wu et al., CVPR 2020,
    https://arxiv.org/abs/1911.11130).
    """

    masks: MaskSource = None
    """Where the subject is in its photos, as for `masked_loss`."""
    as_far: bool = False
    """Whether photos are on average taken from the mean distance of `orbit`, which tells how large the subject is; else
    it becomes as large as in the first scene."""
    symmetry: Annotated[float, Field(ge=0, le=1)] = 0.8
    """The second scene's shape is its own mirror image, left and right or else front and back, where the first's is
    nearly so: it and its mirror image overlap by at least this share. Every photo then tells of two sides. 1: never."""
    components: dict[str, dict[str, Any]] = {}
    """Settings of other components, by name, that the second scene has in place of the first's."""
    photos: Annotated[int, Field(ge=0)] = 0
    """How many there are; filled in by the run."""

    _corrections: Parameter = PrivateAttr()

    def prepare(self, studio: Studio) -> None:
        import torch

        super().prepare(studio)
        self._corrections = torch.nn.Parameter(torch.zeros(self.photos, 5, device=studio.backbone.device))

    def parameters(self) -> dict[str, Parameter]:
        return {"corrections": self._corrections} if self.photos else {}

    def corrected(self, views: Views, number: int) -> tuple[Views, Tensor]:
        """Where the camera of photo `number` of `views` stands by now, and how far its picture is moved.

        The move, (2,), is to the right and down, in half sides of the picture. In the mean over all photos distances
        stay, so that the scene keeps its size.
        """
        import torch

        around, up, away, right, down = self._corrections[number]
        own = views[number : number + 1].to(self._corrections.device)
        corrected = replace(
            own,
            azimuth=own.azimuth + AROUND * around,
            elevation=(own.elevation + UP * up).clamp(LOWEST, HIGHEST),
            distance=own.distance * (away - self._corrections[:, 2].mean()).exp(),
        )
        return corrected, torch.stack([right, down])
