"""A learned background that depends on the direction alone (DreamFusion: Poole et al., ICLR 2023, section 3.2).

https://arxiv.org/abs/2209.14988
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pydantic import PrivateAttr

from modalities.core.component import Component

if TYPE_CHECKING:
    from torch.nn import Parameter

    from modalities.core.studio import Studio
    from modalities.three_d.field import PlaceMaps
    from modalities.three_d.renderer import Background


class Surroundings(Component):
    """One place for each of the recipe's prompts; the subject is what stays when the place changes."""

    _maps: PlaceMaps = PrivateAttr()

    def prepare(self, studio: Studio) -> None:
        from modalities.three_d.field import PlaceMaps

        super().prepare(studio)
        self._maps = PlaceMaps(len(studio.recipe.data.prompts)).to(studio.backbone.device)

    def parameters(self) -> dict[str, Parameter]:
        return dict(self._maps.named_parameters())

    def place(self, number: int) -> Background:
        """The background of prompt `number`."""
        return partial(self._maps, place=number)
