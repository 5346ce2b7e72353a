"""The second word of Consist3D (Ouyang et al., 2023): beside the word for what the subject is, one for its shape.

"Chasing Consistency in Text-to-3D Generation from a Single Image", https://arxiv.org/abs/2309.03599. The first word is
learned from the photos, this one from estimates of its other sides while the first stands still; both together lead the
scene, so that guidance may be low.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modalities.core.components.textual_inversion import TextualInversion


class GeometricToken(TextualInversion):
    """A further new word; `pcs 3d` adds it for the stage that learns it alone."""

    token: Annotated[str, Field(pattern=r"^\S+$")] = "<shape>"
    """The new word; it is put behind the subject's first one."""
