"""The three DreamBooths of DreamBooth3D (Raj et al., ICCV 2023, section 3.2): partial, full and multi-view.

https://arxiv.org/abs/2303.13508
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from modalities.core.component import Component

Steps = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Dreambooth(Component):
    """How the subject is learned, how often, and how its pseudo views are made.

    All three learn by one image recipe; the last goes on from the first, on photos and pseudo views together.
    """

    recipe: str = "image/dreambooth_lora"
    components: dict[str, dict[str, Any] | None] = {}
    """Changes of that recipe's components, by name: other settings, a further one, or null to drop one."""
    partial: Steps = 400
    """Steps of the first, at most; it must not yet have forgotten other views than those of the photos."""
    keep_views: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The first ends when its views are less diverse than this share of the base's; 0 takes all its steps."""
    full: Annotated[int, Field(ge=0)] = 1200
    """Steps of the second, which knows the subject best; 0 ends with the first scene, as MVDream's DreamBooth does."""
    multiview: Steps = 400
    """Further steps of the first on photos and pseudo views."""
    geometry: Annotated[int, Field(ge=0, le=16)] = 0
    """Vectors of a `geometric_token` that the last learns in place of going on with the first; 0 goes on."""
    views: Steps = 20
    """Pseudo views: renders of the first scene, redrawn by the second DreamBooth."""
    strength: Share = 0.5
    """How much noise is put on a render before it is redrawn, as a share of the base's times."""
