"""Clips led by the learned motion: the base is also asked without it, and what differs from frame to frame counts more.

Guidance by a model that knows less (Karras et al., NeurIPS 2024, https://arxiv.org/abs/2406.02507), here by the run
without its motion, at those times at which it helps (Kynkäänniemi et al., NeurIPS 2024,
https://arxiv.org/abs/2404.07724).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from modalities.core.component import Component
from modalities.core.errors import PcsError
from modalities.video.learner import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor

    from modalities.core.backbone import Conditioning
    from modalities.core.studio import Studio

MOTION = "motion_lora"


class MotionGuidance(Component):
    """While generating, goes further from the answer without `motion_lora` to the one with it.

    To guided answers it adds `scale * (d - mean of d over frames)`, where d is the difference of the two. What the LoRA
    does to all frames alike, looks and place, is in the mean and gains nothing; a place that changes along the clip, as
    the camera turns, is not. Where things are is decided at noisy times; later on, textures come of it. At its times it
    takes half as long again. Learns nothing, so any run can be led:
    `pcs video generate RUN … --set components.motion_guidance.scale=9`.
    """

    source: ClassVar[Source] = "clips"
    draws: ClassVar[bool] = True

    scale: Annotated[float, Field(ge=0)] = 9.0
    """Beside the scale of guidance by the prompt; 0 adds nothing."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of the times, from noise on, at which it leads."""

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        if studio.recipe.component(MOTION) is None:
            raise PcsError(f"components.motion_guidance: leads by {MOTION}, which the recipe does not have.")

    def lead(
        self,
        noisy: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        said: Tensor,
        *,
        without: Callable[[], AbstractContextManager[None]],
    ) -> Tensor:
        """What is added to guided answers at times t `(B,)`, of the shape of `noisy`.

        Args:
            noisy: latents of clips, `(B, C, F, h, w)`.
            t: in the units of the base's schedule, the same for all.
            conditioning: what is asked.
            said: the base's answers to that, before guidance.
            without: a block inside which `motion_lora` is not there.
        """
        import torch

        from modalities.core.sampling import is_noisy

        backbone = self.studio.backbone
        if not is_noisy(backbone, float(t[0]), self.share):
            return torch.zeros_like(said)
        with without():
            moves = said - backbone.predict(noisy, t, conditioning).float()
        return self.scale * (moves - moves.mean(2, keepdim=True))
