"""Photos shown smaller and larger, with words that say so (Custom Diffusion, Kumari et al., CVPR 2023, section 4).

https://arxiv.org/abs/2212.04488
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from modalities.core.backbone import Posterior
    from modalities.core.step import Batch
    from modalities.core.studio import Studio

Share = Annotated[float, Field(ge=0, le=1)]


class GeometricAugmentation(Component):
    """Resizes and moves photos in some items; the error counts only where the photo is.

    Smaller photos lie on grey, larger ones are cut. List it before components that add items.
    """

    share: Share = 0.66
    """How many of the items are changed."""
    smaller: Share = 0.66
    """How many of these are made smaller."""
    smallest: Annotated[float, Field(gt=0, le=1)] = 1 / 3
    largest: Annotated[float, Field(ge=1, le=3)] = 1.4
    """Sides, as shares of the whole."""
    far: list[str] = ["far away", "very small"]
    close: list[str] = ["zoomed in", "close up"]
    """Said behind prompts of photos below 0.6 and above 1.2; empty says nothing."""
    count: Annotated[int, Field(gt=0)] = 64
    """How many changed pictures are made, of all photos together; at least one of each."""

    _pictures: Posterior = PrivateAttr()
    _inside: Tensor = PrivateAttr()
    _said: list[str] = PrivateAttr(default_factory=list[str])

    def prepare(self, studio: Studio) -> None:
        import torch

        super().prepare(studio)
        if studio.recipe.component("masked_loss"):
            raise PcsError("geometric_augmentation: moves photos away from the masks of masked_loss; drop one.")
        if not studio.training:
            return
        made = [self._one(number) for number in range(self._total())]
        self._pictures = studio.encode_images([picture for picture, _, _ in made])
        self._inside = torch.stack([inside for _, inside, _ in made]).to(studio.backbone.device)
        self._said = [said for _, _, said in made]

    def _total(self) -> int:
        return max(self.count, len(self.studio.concept.all_photos))

    def _one(self, number: int) -> tuple[Image, Tensor, str]:
        """Changed picture `number`: the picture, where it is photo `(1, h, w)` of mean 1, and what is said of it."""
        from modalities.core import media

        studio = self.studio
        size = float(studio.draws.uniform("geometry size", [number]))
        across, down, word = (studio.draws.chance(f"geometry {what}", number) for what in ("across", "down", "word"))
        rows = studio.concept.all_photos
        photo, side = rows[number % len(rows)], studio.resolution
        # The released code skips the sizes between 1 and 1.2, which look like neither.
        is_smaller = (number // len(rows) + 0.5) * len(rows) / self._total() < self.smaller
        low, high = (self.smallest, 1.0) if is_smaller else (min(1.2, self.largest), self.largest)
        scale = low + size * (high - low)
        pixels = media.square(photo.open(), max(1, round(scale * side)))
        placed, inside = _placed(pixels, side, across, down, studio.backbone.pixels_per_latent)
        words = self.far if scale < 0.6 else self.close if scale > 1 else []
        return media.to_image(placed), inside, words[int(word * len(words))] if words else ""

    def batch(self, batch: Batch) -> Batch:
        """Exchange some of the subject's items for changed pictures of their photo, with the same noise and times."""
        import torch

        studio = self.studio
        chosen = [studio.draws.chance("geometry", position) < self.share for position in batch.positions]
        is_moved = torch.tensor(chosen, device=batch.is_prior.device) & ~batch.is_prior
        rows = [self._row(position) for position in batch.positions]
        moved = studio.batch(self._pictures, rows, batch.prompts, batch.positions, purpose="subject")
        prompts = zip(batch.prompts, rows, is_moved.tolist(), strict=True)
        spread = is_moved.view(-1, *[1] * (batch.latents.ndim - 1))
        return replace(
            batch,
            latents=torch.where(spread, moved.latents, batch.latents),
            prompts=tuple(
                f"{said}, {self._said[row]}" if new and self._said[row] else said for said, row, new in prompts
            ),
        ).weighed(torch.where(spread, self._inside[rows], 1.0))

    def _row(self, position: int) -> int:
        """Which changed picture item `position` would take: one of its own photo."""
        photo, photos = self.studio.photo_at(position), len(self.studio.concept.all_photos)
        own = range(photo, self._total(), photos)
        return own[self.studio.draws.pick(f"geometry of {photo}", position, len(own))]


def _placed(pixels: Tensor, side: int, across: float, down: float, per_latent: int) -> tuple[Tensor, Tensor]:
    """A square picture on a grey square of `side` pixels or cut to it, and which latents lie wholly inside it."""
    import torch

    free = pixels.shape[1] - side
    left, top = int(across * (abs(free) + 1)), int(down * (abs(free) + 1))
    if free >= 0:
        return pixels[:, top : top + side, left : left + side], torch.ones(1, side // per_latent, side // per_latent)
    placed, inside = torch.full((3, side, side), 0.5), torch.zeros(1, side, side)
    own = (slice(None), slice(top, top + pixels.shape[1]), slice(left, left + pixels.shape[1]))
    placed[own], inside[own] = pixels, 1.0
    whole = -torch.nn.functional.max_pool2d(-inside, per_latent)
    return placed, whole / whole.mean().clamp(min=1e-6)
