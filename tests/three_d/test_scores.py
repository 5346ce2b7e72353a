"""Scores of a scene against the truth: a perfect scene is perfect, a shifted one is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modalities.core.errors import PcsError
from modalities.mini import solid
from modalities.mini.world import Subject
from modalities.three_d.evaluate import TrueShape
from modalities.three_d.shape import grid_points


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    solid.write_field(solid.field_of(Subject.random(3, "duck", held_out=True), 48), tmp_path / "subject.npz")
    return tmp_path / "subject.npz"


def test_the_true_shape_stands_around_the_origin_and_faces_the_front(truth: Path) -> None:
    shape = TrueShape.read(truth)
    points = grid_points(48)
    inside = points[shape.contains(points)]
    low, high = inside.amin(0), inside.amax(0)
    assert (low[1] + high[1]).abs() < 0.1
    beak_height = inside[(inside[:, 1] > 0.3)]
    assert beak_height[:, 2].amax() > beak_height[:, 2].amin().abs(), "the beak points to +z"


def test_points_of_the_surface_lie_on_it(truth: Path) -> None:
    shape = TrueShape.read(truth)
    points = shape.surface(500)
    assert len(points) == 500
    assert shape.distances(points).abs().max() < 0.05
    assert not shape.contains(torch.full((1, 3), 5.0)).any()


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "subject.npz").write_text("no")
    with pytest.raises(PcsError, match="is no distance field"):
        TrueShape.read(tmp_path / "subject.npz")
