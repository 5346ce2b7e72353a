"""What training will see of the photos: the square that is used, the mask, the words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from modalities.core import media
from modalities.core.components.captions import Captions
from modalities.core.report import contact_sheet
from modalities.core.studio import Studio
from modalities.core.subject_mask import masks

if TYPE_CHECKING:
    from modalities.core.concept import Concept
    from modalities.core.machine import Machine
    from modalities.core.recipe import Recipe

# How bright what is outside of a mask is shown.
OUTSIDE = 0.25


@dataclass(frozen=True)
class Preview:
    """A contact sheet of the photos as they are used. areas: share of each that its mask leaves, if there are masks."""

    sheet: Image.Image
    areas: list[float] | None


def preview(recipe: Recipe, concept: Concept, machine: Machine) -> Preview:
    """Look at photos, masks and prompts as the recipe's components take them; nothing is trained.

    Raises:
        PcsError: a mask or a caption is missing or wrong.
    """
    kept = [part for part in recipe.components if isinstance(part, Captions) or hasattr(part, "masks")]
    backbone = machine.backbone(recipe.backbone)
    few = recipe.model_copy(update={"components": kept, "phases": []})
    studio = Studio(backbone, concept, few, training=True, cache=machine.cache)
    sources = [part.masks for part in studio.components if hasattr(part, "masks")]  # pyright: ignore
    # A mirrored photo has its mask mirrored.
    found = masks(studio, sources[0])[:: 1 + recipe.data.flip] if sources else None
    rows: list[tuple[str, list[Image.Image]]] = []
    for number, photo in enumerate(concept.all_photos):
        pixels = media.square(photo.open(), studio.resolution)
        shown = [pixels] if found is None else [pixels, pixels * (OUTSIDE + (1 - OUTSIDE) * found[number])]
        rows.append((f"{photo.path.name}: {_prompt(studio, number)}", [media.to_image(one) for one in shown]))
    areas = None if found is None else [round(float(one.mean()), 4) for one in found]
    return Preview(contact_sheet(rows), areas)


def _prompt(studio: Studio, number: int) -> str:
    prompt = studio.concept.owners[number].prompt(studio.recipe.data.prompts[0])
    captions = next((part for part in studio.components if isinstance(part, Captions)), None)
    return captions.said(number, prompt) if captions else prompt
