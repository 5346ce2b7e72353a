"""The verb of this room: appearance from photos, motion from clips, or both, into one run folder."""

from __future__ import annotations

from modalities.core.component import Component
from modalities.core.errors import PcsError
from modalities.core.recipe import Recipe
from modalities.video.adapter import Adapter, source_of


def narrowed(recipe: Recipe, *, photos: bool, clips: bool) -> Recipe:
    """Leave out what a recipe would learn from photos or clips that were not given.

    Raises:
        PcsError: nothing would be learned.
    """

    def stays(part: Component) -> bool:
        return part.name in ("footage", "initial_noise") or (photos if source_of(part) == "photos" else clips)

    parts = [part for part in recipe.components if stays(part)]
    names = {part.name for part in parts}
    phases = [
        phase.model_copy(update={"learn": {name: rate for name, rate in phase.learn.items() if name in names}})
        for phase in recipe.stretches()
    ]
    learners = {part.name for part in parts if isinstance(part, Adapter)} | {"textual_inversion"} & names
    phases = [phase for phase in phases if set(phase.learn) & learners]
    if not phases:
        given = " and ".join(name for name, there in (("photos", photos), ("clips", clips)) if there)
        raise PcsError(f'recipe "{recipe.title}" learns nothing from {given} alone; choose another, or give both.')
    return recipe.model_copy(update={"components": parts, "phases": phases})
