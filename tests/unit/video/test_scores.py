"""Scores of motion put known motions in the right order."""

from __future__ import annotations

import math

import pytest
import torch

from modalities.video.flow import flows, warp_error
from modalities.video.scores import dynamic_degree, motion_fidelity, speed_ratio, tracks_of
from tests.tiny_clips import frames, pixels


def test_flow_finds_the_true_shift() -> None:
    flow = flows(pixels(frames(2, step=(3, 1))))[0]
    inside = flow.shift[:, 26:36, 13:23]
    assert torch.allclose(inside.flatten(1).median(1).values, torch.tensor([3.0, 1.0]), atol=0.3)
    assert flow.shift[:, :12, 40:].abs().max() < 0.5, "the ground stands still"


def test_fidelity_is_1_for_the_same_motion_of_another_thing_and_negative_for_its_opposite() -> None:
    reference = tracks_of(pixels(frames(step=(3, 0))))
    same = motion_fidelity(tracks_of(pixels(frames(step=(3, 0), seed=5))), reference)
    slower = motion_fidelity(tracks_of(pixels(frames(step=(1.5, 0), seed=5))), reference)
    across = motion_fidelity(tracks_of(pixels(frames(step=(0, 3), seed=5))), reference)
    opposite = motion_fidelity(tracks_of(pixels(frames(step=(-3, 0), seed=5))), reference)
    assert same > 0.9
    assert slower > 0.8
    assert abs(across) < 0.4
    assert opposite < -0.5


def test_a_frozen_clip_has_no_motion_and_no_say() -> None:
    still = tracks_of(pixels(frames(step=(0, 0))))
    reference = tracks_of(pixels(frames(step=(3, 0))))
    assert dynamic_degree(still) == 0
    assert motion_fidelity(still, reference) == 0
    assert math.isnan(motion_fidelity(reference, still))


def test_speed_is_told_apart_from_direction() -> None:
    fast, slow = tracks_of(pixels(frames(step=(4, 0)))), tracks_of(pixels(frames(step=(2, 0))))
    assert speed_ratio(slow, fast) == pytest.approx(0.5, abs=0.1)


def test_frames_that_do_not_belong_together_have_a_high_warp_error() -> None:
    moving = pixels(frames(step=(2, 0)))
    torch.manual_seed(0)
    assert warp_error(moving) < 0.01
    assert warp_error(moving + 0.2 * torch.rand_like(moving)) > 0.03
