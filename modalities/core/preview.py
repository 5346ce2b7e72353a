"""What training will see of the photos: the square that is used, the mask, the words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

from modalities.core import media
from modalities.core.report import contact_sheet
from modalities.core.subject_mask import masks

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.studio import Studio

# How bright what is outside of a mask is shown.
OUTSIDE = 0.25


def preview(studio: Studio) -> tuple[Image.Image, dict[str, Any]]:
    """A contact sheet of the photos as they are used, and numbers about them.

    Each photo stands under a prompt of its own, beside what its mask leaves of it where a component takes masks.
    """
    source = next((part for part in studio.components if hasattr(part, "masks")), None)
    found = masks(studio, source.masks) if source is not None else None  # pyright: ignore
    each = 1 + studio.recipe.data.flip
    rows: list[tuple[str, list[Image.Image]]] = []
    for number, photo in enumerate(studio.concept.all_photos):
        pixels = media.square(photo.open(), studio.resolution)
        shown = [media.to_image(pixels)]
        if found is not None:
            shown.append(media.to_image(_shaded(pixels, found[number * each])))
        rows.append(
            (f"{photo.path.name}: {studio.concept.owners[number].prompt(studio.recipe.data.prompts[0])}", shown)
        )
    about: dict[str, Any] = {"photos": len(rows)}
    if found is not None:
        about["mask_area"] = round(float(found.mean()), 4)
    return contact_sheet(rows), about


def _shaded(pixels: Tensor, mask: Tensor) -> Tensor:
    return pixels * (OUTSIDE + (1 - OUTSIDE) * mask)
