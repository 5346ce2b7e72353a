"""What each temporal loss looks at, and what it looks away from."""

from __future__ import annotations

import pytest
import torch

from modalities.core.errors import PcsError
from modalities.video.components.appearance_debiased_loss import debiased
from modalities.video.components.frame_centred_loss import centred
from modalities.video.components.frame_residual_loss import residual_misalignment
from modalities.video.components.initial_noise import InitialNoise, correlate

CLIP = torch.randn(2, 4, 8, 6, 6, generator=torch.Generator().manual_seed(0))
STILL = torch.randn(2, 4, 1, 6, 6, generator=torch.Generator().manual_seed(1)).expand_as(CLIP)


def test_the_debiased_loss_counts_a_still_error_far_less_than_a_moving_one() -> None:
    still = debiased(STILL, [3, 5]).square().mean() / STILL.square().mean()
    moving = debiased(CLIP, [3, 5]).square().mean() / CLIP.square().mean()
    assert float(still) == pytest.approx((2**0.5 - 1) ** 2, rel=1e-4)
    assert float(moving) == pytest.approx(3, rel=0.25)


def test_the_centred_loss_does_not_see_a_still_error() -> None:
    assert centred(STILL).abs().max() < 1e-6
    assert torch.allclose(centred(CLIP + STILL), centred(CLIP), atol=1e-5)


def test_residuals_with_a_sign_tell_a_motion_from_its_opposite_and_those_as_released_do_not() -> None:
    assert float(residual_misalignment(CLIP, CLIP)) == pytest.approx(0, abs=1e-5)
    assert float(residual_misalignment(-CLIP, CLIP)) == pytest.approx(2, abs=1e-5)
    assert float(residual_misalignment(-CLIP, CLIP, signed=False)) == pytest.approx(0, abs=1e-5)
    assert float(residual_misalignment(CLIP + STILL, CLIP)) == pytest.approx(0, abs=1e-5)


def test_start_noise_keeps_its_variance_and_correlates_as_asked() -> None:
    z = torch.randn(4, 8, 64, 64, generator=torch.Generator().manual_seed(2))
    mixed = correlate(z, 0.7)
    assert float(mixed.var()) == pytest.approx(1, abs=0.03)
    for apart in (1, 2):
        product = (mixed[:, :-apart] * mixed[:, apart:]).mean()
        assert float(product) == pytest.approx(0.7**apart, abs=0.03)
    inverted = torch.randn(4, 8, 64, 64, generator=torch.Generator().manual_seed(3))
    shared = InitialNoise(inverted=0.36).mixed(z, torch.zeros(4, 1, 1, 1), inverted)
    assert float((shared * inverted).mean()) == pytest.approx(0.6, abs=0.03)
    assert float(shared.var()) == pytest.approx(1, abs=0.03)
    assert torch.equal(InitialNoise().mixed(z, torch.ones(4, 1, 1, 1), inverted), z)
    with pytest.raises(PcsError, match="inverted with other ones; leave them, or add --noise-prior 0"):
        InitialNoise(inverted=0.36).mixed(z[:, :, :60, :60], torch.zeros(4, 1, 1, 1), inverted)
