"""Geometry: the renderer, the field and the mesh find a known shape again, and files say what is true of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from modalities.core.errors import RunFailed
from modalities.mini import solid
from modalities.mini.world import Camera, Scene, Subject
from modalities.mini.world import render as draw
from modalities.three_d import shape
from modalities.three_d.cameras import Views, turntable
from modalities.three_d.field import SceneField
from modalities.three_d.mesh import Mesh, isosurface
from modalities.three_d.renderer import render

SIDE, VIEWS, STEPS = 32, 20, 140


def ball(cells: int = 40, radius: float = 0.6, at: float = 0.0) -> np.ndarray:
    """Values above 0 in a ball."""
    axis = np.linspace(-1, 1, cells)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    return (radius - np.linalg.norm(grid - at, axis=-1)).astype(np.float32)


def meshed(values: np.ndarray, level: float = 0.0) -> Mesh:
    vertices, faces = isosurface(values, level)
    placed = vertices / (len(values) - 1) * 2 - 1
    return Mesh(placed.astype(np.float32), faces)


def black(directions: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(directions)


@pytest.fixture(scope="module")
def fitted() -> tuple[SceneField, Subject]:
    """A scene fitted to twenty pictures of a mini-world subject from known cameras."""
    subject = Subject.random(3, "duck", held_out=True)
    cameras = [Camera(18.0 * n, (5.0, 25.0, 50.0, 15.0)[n % 4], 2.8) for n in range(VIEWS)]
    drawn = [draw(Scene(subject, "blue studio", camera), 64) for camera in cameras]
    masks = torch.stack([torch.from_numpy(one.mask) for one in drawn])[:, None].float() / 255
    pictures = torch.stack([torch.from_numpy(one.image) for one in drawn]).permute(0, 3, 1, 2).float() / 255
    masks = functional.avg_pool2d(masks, 2)
    pictures = functional.avg_pool2d(pictures, 2) * masks
    views = Views(
        torch.tensor([camera.azimuth_degrees for camera in cameras]),
        torch.tensor([camera.elevation_degrees for camera in cameras]),
        torch.full((VIEWS,), 2.8),
        torch.full((VIEWS,), 40.0),
    )
    torch.manual_seed(0)
    field = SceneField(48)
    optimizer = torch.optim.AdamW(field.parameters(), lr=0.02, weight_decay=0)
    for step in range(STEPS):
        k = slice(step % VIEWS, step % VIEWS + 1)
        seen = render(field, views[k], SIDE, samples=32, background=black, jitter=torch.rand(1, SIDE * SIDE))
        loss = (seen.opacity - masks[k][:, 0]).abs().mean() + (seen.colours - pictures[k]).abs().mean()
        optimizer.zero_grad()
        (loss + 1e-3 * field.roughness()).backward()
        optimizer.step()
    return field, subject


def test_a_scene_fitted_to_views_has_the_true_shape(fitted: tuple[SceneField, Subject]) -> None:
    field, subject = fitted
    truth = solid.field_of(subject, 48)
    axes = [torch.linspace(float(a), float(b), 48) for a, b in zip(truth.low, truth.high, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    height = float(points[..., 1][torch.from_numpy(truth.values) < 0].max())
    points[..., 1] -= height / 2
    with torch.no_grad():
        found = (field.densities(points.view(-1, 3)) > shape.level_of(field).density).view(48, 48, 48).numpy()
    inside = truth.values < 0
    assert (found & inside).sum() / (found | inside).sum() > 0.8


def test_its_mesh_is_closed_faces_outwards_and_keeps_the_colours(fitted: tuple[SceneField, Subject]) -> None:
    field, _ = fitted
    mesh = shape.mesh_of(field, 48).standing(0.3)
    assert mesh.is_closed
    assert mesh.volume > 0
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    assert low[1] == pytest.approx(0, abs=1e-6)
    assert (high - low).max() == pytest.approx(0.3, rel=1e-5)
    # This duck has a yellow body and a red head: green, without which no yellow is, in the body alone, blue nowhere.
    fine = shape.mesh_of(field, 48)
    colours = shape.seen_colours(field, fine.vertices, fine.normals())
    up, green, blue = mesh.vertices[:, 1] / high[1], colours[:, 1], colours[:, 2]
    assert green[(up > 0.3) & (up < 0.45)].mean() > green[up > 0.7].mean() + 0.2
    assert blue.mean() < 0.25


def test_a_ball_has_its_volume_and_a_second_piece_can_be_left_out() -> None:
    mesh = meshed(ball())
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.02)
    assert mesh.is_closed
    both = meshed(np.maximum(ball(), ball(radius=0.12, at=0.8)))
    assert len(both.faces) > len(mesh.faces)
    assert len(both.largest_part().faces) == len(mesh.faces)


def test_noise_still_gives_a_closed_surface() -> None:
    assert meshed(np.random.default_rng(0).random((14, 14, 14)).astype(np.float32), 0.5).is_closed


def test_an_empty_scene_says_so() -> None:
    field = SceneField(8, blob=0.0)
    torch.nn.init.constant_(field.density.bias, -100.0)
    with pytest.raises(RunFailed, match=r"the scene is empty: 0\.0% of what is seen is opaque"):
        shape.mesh_of(field, 16)


def test_cameras_stand_where_the_mini_world_puts_them() -> None:
    views = Views.of([0.0, 90.0, 200.0], elevation=30.0, distance=3.0)
    places = views.matrices()[:, :3, 3]
    assert torch.allclose(places.norm(dim=1), torch.full((3,), 3.0))
    assert places[0, 2] > 0, "azimuth 0 looks at the front, which faces +z"
    assert places[1, 0] > 0, "azimuth 90 is the side with x > 0"
    rays = views.rays(5)
    middle = rays.directions[:, 12]
    assert torch.allclose(middle, -functional.normalize(places, dim=1), atol=1e-6)
    assert rays.directions[0, 14, 0] > 0, "seen from the front, +x is right"
    assert rays.directions[0, 2, 1] > rays.directions[0, 22, 1], "the first row is the upper one"


@pytest.mark.parametrize(("mirror", "axis"), [("x", 0), ("z", 2)])
@pytest.mark.parametrize("appearance", [0, 3])
def test_a_symmetric_shape_is_its_own_mirror_image_and_its_colours_are_not(
    mirror: str, axis: int, appearance: int
) -> None:
    torch.manual_seed(0)
    field = SceneField(8, blob=2.0, mirror=mirror, appearance=appearance)
    points = torch.rand(50, 3) * 2 - 1
    with torch.no_grad():
        density, colour = field(points)
        for other in range(3):
            turned = points.clone()
            turned[:, other] *= -1
            found = field(turned)
            assert torch.equal(density, found[0]) == (other == axis)
            assert not torch.allclose(colour, found[1])
        assert torch.equal(field.densities(points), density)
        free = SceneField(8, blob=2.0, appearance=appearance)
        free.load_state_dict(field.state_dict() | {"is_mirrored": free.is_mirrored})
        right = points[points[:, axis] > 0]
        assert torch.equal(free.densities(right), field.densities(right)), "what was learned is one half of it"
        assert not torch.equal(free.densities(points), density)


def test_patterns_of_colour_can_leave_the_shape_alone() -> None:
    torch.manual_seed(0)
    field, points = SceneField(8, channels=4, appearance=3, blob=2.0), torch.rand(50, 3) * 2 - 1
    density, colour = field(points)
    of_density, of_colour = (
        torch.autograd.grad(value.sum(), field.planes, retain_graph=True)[0].abs().amax((0, 2, 3)) > 0
        for value in (density, colour)
    )
    assert of_density.tolist() == [True] * 4 + [False] * 3
    assert of_colour.tolist() == [False] * 4 + [True] * 3


def test_the_plane_of_symmetry_is_found() -> None:
    place = shape.grid_points(24)
    half = torch.tensor([0.5, 0.6, 0.9])
    box = ((place - torch.tensor([0.0, 0.1, 0.0])).abs() < half).all(1).view(24, 24, 24)
    assert shape.mirror_of(box, 0.8) == "x", "left and right are asked for first"
    moved = ((place - torch.tensor([0.2, 0.1, 0.0])).abs() < half).all(1).view(24, 24, 24)
    assert shape.mirror_of(moved, 0.8) == "z"
    skew = (place[:, 0] - place[:, 2]).abs() < 0.3
    assert shape.mirror_of(skew.view(24, 24, 24), 0.8) is None


def test_empty_cells_are_passed_over_without_a_difference() -> None:
    torch.manual_seed(0)
    field = SceneField(8)
    with torch.no_grad():
        whole = render(field, turntable(2), 24, samples=32, background=black)
        sparse = render(field, turntable(2), 24, samples=32, background=black, occupied=shape.occupied_cells(field))
    assert (whole.colours - sparse.colours).abs().max() < 0.01
    assert not shape.occupied_cells(field).all()


def test_a_point_is_drawn_where_its_ray_passes() -> None:
    views = Views.of([30.0, 200.0], elevation=20.0)
    rays = views.rays(8)
    point = rays.origins[0, 13] + 2.5 * rays.directions[0, 13]
    column, row, depth = views.project(point[None], 8)[0, 0].tolist()
    assert (column, row) == pytest.approx((5.5, 1.5), abs=1e-4)
    assert 2.2 < depth < 2.5, "along the axis of the camera"


def test_gradients_reach_the_scene_through_the_picture() -> None:
    torch.manual_seed(0)
    field = SceneField(8)
    seen = render(field, turntable(2), 8, samples=8, background=black)
    seen.colours.mean().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in field.parameters())
