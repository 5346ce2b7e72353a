"""The verb of this room: appearance from photos, motion from clips, or both, into one run folder."""

from __future__ import annotations

from pathlib import Path

from modalities.core import bases
from modalities.core.artifact import Artifact
from modalities.core.component import Component
from modalities.core.errors import PcsError
from modalities.core.recipe import Recipe
from modalities.video.concept import VideoConcept
from modalities.video.learner import Learner, source_of


def require_video_base(recipe: Recipe, *, offline: bool = False) -> None:
    """Check, before anything is loaded, that a recipe's base makes clips, by itself or with the recipe's help.

    Raises:
        PcsError: it makes pictures; names the bases for clips.
    """
    from modalities.video.backbone import VideoBackbone

    face = bases.family(bases.resolve(recipe.backbone), offline=offline, modality="video")
    if not issubclass(face, VideoBackbone) or not (face.makes_clips or recipe.component("inflated_attention")):
        known = ", ".join(base for base in bases.entries() if bases.entry(base).get("clip"))
        raise PcsError(
            f"{recipe.backbone}: is a base for pictures; for clips there are {known}, or give a diffusers folder."
        )


def require_same_clips(run: Artifact, concept: VideoConcept) -> None:
    """Check that a run to be resumed learns from the clips that it began with.

    Raises:
        PcsError: it does not; names what has changed.
    """
    if not run.exists():
        return
    before: dict[str, str] = run.about().get("clips", {})
    now = {str(clip.path.resolve()): clip.digest for clip in concept.clips}
    odd = sorted(Path(path).name for path in {*before, *now} if before.get(path) != now.get(path))
    if sorted(before.values()) != sorted(now.values()):
        raise PcsError(f"{run.folder}: cannot resume, the clips have changed ({', '.join(odd)}); choose another --out.")


def narrowed(recipe: Recipe, *, photos: bool, clips: bool) -> Recipe:
    """Leave out what a recipe would learn from photos or clips that were not given.

    Raises:
        PcsError: nothing would be learned of what is given.
    """

    def stays(part: Component) -> bool:
        return part.name in ("footage", "initial_noise") or (photos if source_of(part) == "photos" else clips)

    parts = [part for part in recipe.components if stays(part)]
    names = {part.name for part in parts}
    phases = [
        phase.model_copy(update={"learn": {name: rate for name, rate in phase.learn.items() if name in names}})
        for phase in recipe.stretches()
    ]
    learners = {part.name for part in parts if isinstance(part, Learner)} | {"textual_inversion"} & names
    phases = [phase for phase in phases if set(phase.learn) & learners]
    if not phases:
        given = " and ".join(name for name, there in (("photos", photos), ("clips", clips)) if there)
        raise PcsError(f'recipe "{recipe.title}" learns nothing from {given} alone; choose another, or give both.')
    seen = {source_of(part) for part in parts if part.name in learners}
    if photos and "photos" not in seen:
        raise PcsError(f'recipe "{recipe.title}" learns nothing from photos; leave out --photos, or choose another.')
    return recipe.model_copy(update={"components": parts, "phases": phases})
