"""Min-SNR weighting: clean times do not outweigh noisy ones (Hang et al., ICCV 2023, section 3.4).

https://arxiv.org/abs/2303.09556
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from modalities.core.step import Batch
    from modalities.core.studio import Studio


class MinSnr(Component):
    """Weighs each item so that its error of the clean picture counts min(SNR, gamma) times.

    Put it first among the components that change batches, or items that these add are weighed as well.
    """

    gamma: Annotated[float, Field(gt=0)] = 5.0

    def prepare(self, studio: Studio) -> None:
        from modalities.core.schedule import DiffusionSchedule

        super().prepare(studio)
        if not isinstance(studio.backbone.schedule, DiffusionSchedule):
            raise PcsError("min_snr: is for bases with a noise schedule; a flow base weighs its times already.")

    def batch(self, batch: Batch) -> Batch:
        from modalities.core.schedule import DiffusionSchedule

        schedule = self.studio.backbone.schedule
        assert isinstance(schedule, DiffusionSchedule)
        snr = schedule.signal_to_noise(batch.t)
        # What one unit of error of the prediction is, in errors of the clean picture.
        per_clean = {"epsilon": snr, "v_prediction": snr + 1}.get(schedule.prediction_type, snr / snr)
        weight = snr.clamp(max=self.gamma) / per_clean
        return batch.weighed(weight.view(-1, *[1] * (batch.latents.ndim - 1)))
