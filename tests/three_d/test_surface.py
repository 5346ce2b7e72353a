"""The fine stage of Magic3D: pictures of a mesh have gradients that mend its shape and its colours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modalities.core.artifact import Artifact
from modalities.core.errors import Interrupted
from modalities.three_d import session
from modalities.three_d.cameras import Views, turntable
from modalities.three_d.components.nerf import Nerf
from modalities.three_d.components.scene_regularizers import SceneRegularizers
from modalities.three_d.components.surface import Surface
from modalities.three_d.mesh_renderer import draw_mesh, zero_surface
from modalities.three_d.part import part_of, progress_at, scene_of
from modalities.three_d.shape import grid_points
from modalities.three_d.trainer import SceneTrainer
from tests import driver
from tests.three_d.test_distillation import DOG, SCENE, scene, studio_of

CELLS, SIDE = 24, 32


def ball(radius: float) -> torch.Tensor:
    return (radius - grid_points(CELLS).norm(dim=1)).view(CELLS, CELLS, CELLS)


def red(points: torch.Tensor) -> torch.Tensor:
    return torch.tensor([1.0, 0.0, 0.0]).expand(len(points), 3)


def test_a_ball_is_drawn_as_a_disc_of_its_size() -> None:
    seen = draw_mesh(ball(0.5), red, Views.of([0.0, 90.0], elevation=0.0), 64, torch.ones_like)
    # From distance 3 a ball of 0.5 is seen up to asin(0.5 / 3).
    reach = torch.tensor(0.5 / 3).asin().tan() / torch.tensor(20.0).deg2rad().tan() * 32
    assert seen.opacity.sum((1, 2)).tolist() == pytest.approx([float(torch.pi * reach**2)] * 2, rel=0.02)
    assert seen.depth[0, 32, 32] == pytest.approx(2.5, abs=0.02)
    assert seen.colours[0, :, 32, 32].tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert seen.colours[0, :, 0, 0].tolist() == [1.0, 1.0, 1.0]
    edge = (seen.opacity > 0.05) & (seen.opacity < 0.95)
    assert float(edge[0].sum()) == pytest.approx(float(2 * torch.pi * reach), rel=0.15), "the outline alone is soft"


def test_outlines_of_parts_behind_others_leave_the_picture_whole() -> None:
    points = grid_points(40)
    balls = ((0.45, (0.0, 0.0, 0.0)), (0.3, (0.35, 0.6, 0.0)), (0.3, (0.6, 0.0, 0.35)))
    values = torch.stack([radius - (points - torch.tensor(middle)).norm(dim=1) for radius, middle in balls]).amax(0)
    for azimuth in (0.0, 90.0, 135.0):
        seen, large = (
            draw_mesh(values.view(40, 40, 40), red, Views.of([azimuth], elevation=15.0), side, torch.ones_like).opacity
            for side in (64, 512)
        )
        assert (seen - torch.nn.functional.avg_pool2d(large, 8)).abs().max() < 0.15


def test_outlines_mend_a_shape() -> None:
    wanted = ball(0.55)
    values = torch.nn.Parameter(ball(0.4))
    views = turntable(6, elevation=20.0)
    with torch.no_grad():
        goal = draw_mesh(wanted, red, views, SIDE, torch.ones_like).opacity
    optimizer = torch.optim.Adam([values], lr=0.02)
    for step in range(60):
        k = slice(step % 6, step % 6 + 1)
        loss = (draw_mesh(values, red, views[k], SIDE, torch.ones_like).opacity - goal[k]).abs().mean()
        around = torch.nn.functional.avg_pool3d(values[None, None], 3, 1, 1, count_include_pad=False)
        optimizer.zero_grad()
        (loss + 2 * (around - values).square().mean()).backward()
        optimizer.step()

    def overlap(one: torch.Tensor) -> float:
        return float(((one > 0) & (wanted > 0)).sum() / ((one > 0) | (wanted > 0)).sum())

    assert overlap(ball(0.4)) < 0.45
    # Six outlines from one height leave top and bottom free.
    assert overlap(values.detach()) > 0.7


def test_vertices_follow_the_values_that_they_lie_between() -> None:
    values = ball(0.5).requires_grad_()
    vertices, faces = zero_surface(values)
    assert vertices.detach().norm(dim=1) == pytest.approx(torch.full((len(vertices),), 0.5).numpy(), abs=0.03)
    (moved,) = torch.autograd.grad(vertices.norm(dim=1).sum(), values)
    assert moved.sum() > 0, "higher values push the surface outwards"
    assert faces.max() == len(vertices) - 1


TWO_STAGES = {
    "components": [*SCENE["components"], {"surface": {"cells": 12, "side": 16}}],
    "phases": [
        {"learn": {"nerf": 0.01, "surroundings": 0.01}, "steps": 2},
        {"learn": {"surface": 0.01, "nerf": 0.01, "surroundings": 0.01}, "steps": 3},
    ],
}


def test_the_mesh_begins_as_the_surface_of_the_coarse_scene(base: Path, tmp_path: Path) -> None:
    studio = studio_of(scene(base, **TWO_STAGES), tmp_path)
    trainer, surface = SceneTrainer(studio), part_of(studio, Surface)
    trainer.probe()
    trainer.preview()
    assert not surface.parameters()["values"].any(), "a trial leaves nothing behind"
    trainer.advance()
    assert isinstance(scene_of(studio), Nerf)
    trainer.advance()
    coarse = scene_of(studio).solid(24)
    studio.set_learning(["surface"])
    assert scene_of(studio) is surface
    trainer.preview()
    fine = surface.solid(24)
    assert (coarse & fine).sum() / (coarse | fine).sum() > 0.8
    before = surface.parameters()["values"].detach().clone()
    trainer.advance()
    assert not torch.equal(surface.parameters()["values"].detach(), before)
    assert surface.mesh(24).is_closed


def test_the_coarse_scene_is_finished_where_the_mesh_begins(base: Path, tmp_path: Path) -> None:
    studio = studio_of(scene(base, **TWO_STAGES), tmp_path)
    batch = studio.recipe.train.batch
    assert [progress_at(studio, [step * batch]) for step in range(5)] == [0, 0.5, 1, 1, 1]


def test_a_mesh_is_not_pushed_back_for_covering_the_picture(base: Path, tmp_path: Path) -> None:
    studio = studio_of(scene(base, **TWO_STAGES), tmp_path)
    regularizers, nerf = part_of(studio, SceneRegularizers), part_of(studio, Nerf)
    seen = draw_mesh(ball(0.5), red, turntable(1), SIDE, torch.ones_like)
    studio.set_learning(["nerf"])
    smoothness = float((regularizers.smoothness * nerf.field.roughness()).detach())
    assert float(regularizers.penalty(seen, [2])) > smoothness + 0.1
    studio.set_learning(["surface"])
    assert float(regularizers.penalty(seen, [4])) == pytest.approx(smoothness)


@pytest.mark.parametrize("stop_at", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_mesh_that_was_stopped_ends_with_the_same_bytes(
    base: Path, encoders: tuple[str, str], tmp_path: Path, stop_at: int
) -> None:
    machine, chosen = driver.machine(encoders, tmp_path / "cache"), scene(base, **TWO_STAGES)
    whole = session.optimize(chosen, DOG, tmp_path / "whole", machine)
    with driver.stopped_at(stop_at), pytest.raises(Interrupted):
        session.optimize(chosen, DOG, tmp_path / "stopped", machine)
    again = session.optimize(chosen, DOG, tmp_path / "stopped", machine, resume=True)
    assert again.weights_file.read_bytes() == whole.weights_file.read_bytes()
    assert isinstance(scene_of(session.open_scene(Artifact(tmp_path / "stopped"), machine)), Surface)
