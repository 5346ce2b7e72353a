"""Scores of a scene against the truth: a perfect scene is perfect, a shifted one is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modalities.core.concept import Concept
from modalities.core.errors import PcsError
from modalities.mini import solid
from modalities.mini.world import Subject
from modalities.three_d.cameras import turntable
from modalities.three_d.evaluate import TrueShape, held_out_psnr, outlines_overlap, prompts_for, true_views
from modalities.three_d.part import Scene
from modalities.three_d.pseudo_views import PseudoViews
from modalities.three_d.raster import rasterize
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


def test_outlines_overlap_as_far_as_shapes_do(truth: Path) -> None:
    mesh = TrueShape.read(truth).mesh()
    assert mesh.is_closed
    assert mesh.volume > 0
    assert outlines_overlap(mesh, mesh, turntable(4)) == 1
    wider = replace(mesh, vertices=mesh.vertices * np.float32(1.25))
    assert outlines_overlap(mesh, wider, turntable(4)) == pytest.approx(1 / 1.25**2, abs=0.06)


def test_true_views_are_of_the_true_shape_from_their_cameras(truth: Path) -> None:
    views, mesh = true_views(Subject.random(3, "duck", held_out=True)), TrueShape.read(truth).mesh()
    assert views.alphas is not None
    faces, side = torch.from_numpy(mesh.faces).long(), views.pictures.shape[-1]
    flat = views.views.project(torch.from_numpy(mesh.vertices), side)
    covered = torch.stack([rasterize(one[faces], side).face >= 0 for one in flat])
    seen = views.alphas[:, 0] > 0.5
    own, turned = ((covered & other).sum((1, 2)) / (covered | other).sum((1, 2)) for other in (seen, seen.roll(3, 0)))
    assert own.min() > 0.9
    assert turned.max() < 0.9, "from a quarter further it looks otherwise"


class Known(Scene):
    """A scene that is drawn as some pictures, in part darker."""

    def __init__(self, drawn: torch.Tensor) -> None:
        super().__init__()
        self._drawn = drawn

    def portray(self, views: Any, side: int, background: Any = None) -> torch.Tensor:
        return self._drawn


def test_psnr_is_of_the_squared_error_of_each_view() -> None:
    pictures, alphas = torch.rand(2, 3, 8, 8), (torch.rand(2, 1, 8, 8) > 0.5).float()
    true = PseudoViews(pictures, turntable(2), (0, 0), alphas)
    seen = pictures * alphas + (1 - alphas) + torch.tensor([0.1, 0.01])[:, None, None, None]
    scene: Any = SimpleNamespace(components=[Known(seen)])
    assert held_out_psnr(scene, true) == pytest.approx((20 + 40) / 2, abs=0.01)


def test_prompts_name_other_things_in_the_place_of_the_subject() -> None:
    scene: Any = SimpleNamespace(
        concept=Concept("dog", "sks dog"), recipe=SimpleNamespace(data=SimpleNamespace(prompts=["a {} in the snow"]))
    )
    prompts = prompts_for(scene)
    assert prompts[0] == "a dog in the snow"
    assert "a mug in the snow" in prompts
    assert len(set(prompts)) == len(prompts) == 15


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "subject.npz").write_text("no")
    with pytest.raises(PcsError, match="is no distance field"):
        TrueShape.read(tmp_path / "subject.npz")
