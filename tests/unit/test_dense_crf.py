"""Masks that follow the edges of a picture."""

from __future__ import annotations

import torch

from modalities.core.dense_crf import segment


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum() / (one + other).clamp(max=1).sum())


def radius(side: int) -> torch.Tensor:
    place = torch.linspace(-1, 1, side)
    return torch.cartesian_prod(place, place).norm(dim=1).view(side, side)


def test_rough_evidence_is_led_to_the_edges() -> None:
    generator = torch.Generator().manual_seed(0)
    for side in (48, 96):
        true = (radius(side) < 0.5).float()
        colours = torch.where(true > 0, torch.tensor([0.8, 0.3, 0.2])[:, None, None], 0.45)
        pixels = (colours + 0.04 * torch.randn(3, side, side, generator=generator)).clamp(0, 1)
        # As attention is: blurred, beside the middle and too large.
        rough = (4 * (0.6 - radius(side).roll(side // 12, 1)) / 0.3).clamp(-8, 8)
        found = segment(pixels, rough)
        assert set(found.unique().tolist()) == {0.0, 1.0}
        assert overlap((rough > 0).float(), true) < 0.65
        assert overlap(found, true) > 0.95


def test_without_edges_the_evidence_stays() -> None:
    rough = (radius(48) < 0.5).float()
    assert overlap(segment(torch.full((3, 48, 48), 0.5), 4 * (2 * rough - 1)), rough) > 0.95
