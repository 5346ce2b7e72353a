"""Clips led by the learned motion: what differs from frame to frame is brought out, what is common can be taken back.

For this the base is asked without the motion as well.

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
    """While generating, takes apart what `motion_lora` changes: the motion is brought out, looks and place can go.

    Let d be the base's answer with `motion_lora` less that without, and m its mean over frames. To guided answers it
    adds `scale * (d - m)` at noisy times, where the motion is decided, and `(common - 1) * m` at all: what the LoRA
    does to all frames alike is what the learned clip looks like and where its subject stands. A place that changes
    along the clip, as the camera turns, is in d - m. It asks the base half as often again where it adds something.
    Learns nothing, so any run can be led: `pcs video generate RUN … --set components.motion_guidance.scale=9`.
    """

    source: ClassVar[Source] = "clips"
    draws: ClassVar[bool] = True

    scale: Annotated[float, Field(ge=0)] = 9.0
    """Beside the scale of guidance by the prompt; 0 brings nothing out."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of the times, from noise on, at which the motion is brought out."""
    common: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How much stays of what `motion_lora` does to all frames alike; below 1 less of the clip's looks comes over."""

    @property
    def leads(self) -> bool:
        """Whether it changes anything."""
        return bool(self.scale and self.share) or self.common < 1

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
        scale = self.scale if is_noisy(backbone, float(t[0]), self.share) else 0.0
        if not scale and self.common == 1:
            return torch.zeros_like(said)
        with without():
            moves = said - backbone.predict(noisy, t, conditioning).float()
        common = moves.mean(2, keepdim=True)
        return scale * (moves - common) + (self.common - 1) * common
