"""Words for where the camera stands, added to the prompt (DreamFusion: Poole et al., ICLR 2023, section 3.2).

https://arxiv.org/abs/2209.14988
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from modalities.core.component import Component
from modalities.three_d.components.orbit import Orbit
from modalities.three_d.part import part_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from modalities.core.step import Batch
    from modalities.three_d.cameras import Views

View = Literal["front", "side", "back", "overhead"]
WORDS: dict[View, str] = {
    "front": ", front view",
    "side": ", side view",
    "back": ", back view",
    "overhead": ", overhead view",
}
# Where each stands, in degrees off the front; that from above is all around.
SECTORS: dict[View, float] = {"front": 0.0, "side": 90.0, "back": 180.0}
# Degrees over which the word for above takes over, where words pass into each other.
OVERHEAD_BLUR = 5.0
Degrees = Annotated[float, Field(ge=0, le=180)]


class ViewPrompts(Component):
    """Adds ", front view" and the like. Between two views no word is added."""

    front: Degrees = 45.0
    """Up to so many degrees off the front it is a front view."""
    side: Degrees = 45.0
    back: Degrees = 45.0
    overhead: Degrees = 60.0
    """Elevation from which it is an overhead view."""
    words: dict[View, str] = dict(WORDS)
    """What is added for each; those that are not given stay."""

    @field_validator("words")
    @classmethod
    def _all_words(cls, words: dict[View, str]) -> dict[View, str]:
        return WORDS | words

    def batch(self, batch: Batch) -> Batch:
        views = part_of(self.studio, Orbit).views(batch.positions)
        named = zip(batch.prompts, views.azimuth.tolist(), views.elevation.tolist(), strict=True)
        return replace(batch, prompts=tuple(prompt + self.word(around, up) for prompt, around, up in named))

    def word(self, azimuth: float, elevation: float) -> str:
        """What is added for a camera at `azimuth` and `elevation` degrees; empty between two views."""
        from modalities.three_d.cameras import gap

        if elevation >= self.overhead:
            return self.words["overhead"]
        off = gap(azimuth, 0.0)
        if off <= self.front:
            return self.words["front"]
        if off >= 180 - self.back:
            return self.words["back"]
        return self.words["side"] if abs(off - 90) <= self.side else ""

    def shares(self, views: Views) -> Float[Tensor, "b words"]:
        """How well each of `words`, in their order, goes with each camera: `word` with soft borders.

        Each is from 0 to 1, and of every camera they are 1 in sum.
        """
        import torch

        from modalities.three_d.cameras import gap

        off = torch.tensor([gap(azimuth, 0.0) for azimuth in views.azimuth.tolist()])
        reaches = {"front": self.front, "side": self.side, "back": self.back}
        near = torch.stack([torch.exp(-(((off - at) / reaches[name]) ** 2)) for name, at in SECTORS.items()], 1)
        above = torch.sigmoid((views.elevation.cpu() - self.overhead) / OVERHEAD_BLUR)
        around = near / near.sum(1, keepdim=True) * (1 - above)[:, None]
        shares = dict(zip(SECTORS, around.unbind(1), strict=True)) | {"overhead": above}
        return torch.stack([shares[name] for name in self.words], 1)

    def told(self, prompt: str) -> dict[str, str]:
        """What `prompt` becomes from each side, and where that is."""
        where: dict[View, str] = {
            "front": f"up to {self.front:g} degrees off the front",
            "side": f"up to {self.side:g} degrees off a side",
            "back": f"up to {self.back:g} degrees off the back",
            "overhead": f"from {self.overhead:g} degrees up",
        }
        return {name: f"{prompt}{self.words[name]}  ({place})" for name, place in where.items()}
