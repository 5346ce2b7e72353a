"""Styles, accessories, companions, motions and solids of the mini world are what their names say."""

from dataclasses import replace

import numpy as np
import pytest

from modalities.mini.captions import RELATION_PHRASES, caption, clip_caption
from modalities.mini.motion import MOTION_PHRASES, MOTIONS, Clip, render_clip
from modalities.mini.shards import training_clip, varied_scene
from modalities.mini.solid import field_of, mesh_of
from modalities.mini.staging import ACCESSORIES, RELATIONS
from modalities.mini.styles import STYLES
from modalities.mini.world import CLASS_NAMES, Camera, Companion, Pose, Scene, Subject, is_held_out, render


def front(class_name: str = "bear", **extras) -> Scene:
    return Scene(Subject.random(5, class_name), "snow", Camera(0.0, 12.0, 3.0), **extras)


def middle_of(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(rows.mean()) / len(mask), float(columns.mean()) / len(mask)


@pytest.mark.parametrize("accessory", ACCESSORIES)
@pytest.mark.parametrize("class_name", CLASS_NAMES)
def test_every_class_can_wear_every_accessory(class_name, accessory):
    bare, dressed = front(class_name), front(class_name, accessory=accessory)
    table = dressed.table()
    assert len(table) > len(bare.table())
    assert np.abs(render(dressed, 48).image.astype(int) - render(bare, 48).image).mean() > 1
    if "hat" in accessory:
        assert render(dressed, 48).mask[24:].any(), "the subject left the picture"


def test_a_hat_sits_on_top():
    bare, crowned = (render(front("snowman", accessory=hat), 96) for hat in (None, "red hat"))
    is_red = (crowned.image[..., 0] > 120) & (crowned.image[..., 1] < 60) & (crowned.mask > 0)
    assert is_red.sum() > 20
    assert middle_of(is_red)[0] < middle_of(crowned.mask)[0] - 0.1
    assert not ((bare.image[..., 0] > 120) & (bare.image[..., 1] < 60)).any()


@pytest.mark.parametrize("relation", RELATIONS)
def test_companions_stand_where_the_relation_says(relation):
    mug = Subject.random(2, "mug")
    picture = render(front("duck", companion=Companion(mug, relation)), 96)
    assert picture.companion_mask is not None
    (row, column), (other_row, other_column) = middle_of(picture.mask), middle_of(picture.companion_mask)
    assert picture.mask.mean() > 3 and picture.companion_mask.mean() > 3
    if relation == "on":
        assert row < other_row - 0.15
    elif relation == "inside":
        assert abs(column - other_column) < 0.15
        assert row < other_row
    elif relation == "beside":
        assert abs(column - other_column) > 0.25
    else:
        nearer = np.median(picture.depth[picture.mask > 200]) < np.median(picture.depth[picture.companion_mask > 200])
        assert nearer == (relation == "in front of")


@pytest.mark.parametrize("style", STYLES[1:])
def test_styles_change_the_picture_and_nothing_that_is_true_of_it(style):
    plain, drawn = render(front(), 64), render(front(style=style), 64)
    assert np.abs(plain.image.astype(int) - drawn.image).mean() > 8
    assert np.array_equal(plain.mask, drawn.mask) and np.array_equal(plain.depth, drawn.depth)
    if style == "pencil":
        assert np.ptp(drawn.image, axis=2).max() == 0
    if style == "pixel art":
        assert np.array_equal(drawn.image[::2, ::2], drawn.image[1::2, 1::2])


def test_a_wet_subject_is_darker_and_a_glossy_one_shines():
    pictures = {
        finish: render(front("duck", finish=finish), 64).image.astype(float) for finish in ("matte", "wet", "shiny")
    }
    assert pictures["wet"].mean() < pictures["matte"].mean()
    assert pictures["shiny"].max(axis=(0, 1)).sum() >= pictures["matte"].max(axis=(0, 1)).sum()


@pytest.mark.parametrize("motion", MOTIONS)
def test_paths_are_where_the_subject_is_seen(motion):
    clip = Clip.random(31, motion, front("snowman"))
    masks = [render(scene, 64).mask for scene in clip.scenes()]
    path = clip.path()
    # Masks tell the middle of what is visible, paths that of the solid: they agree as to how it moves.
    seen = np.array([middle_of(mask)[::-1] for mask in masks])
    assert np.abs((seen - seen[0]) - (path[:, :2] - path[0, :2])).max() < 0.08
    area = np.sqrt([(mask > 0).mean() for mask in masks])
    if motion in ("grow", "zoom"):
        assert np.corrcoef(area, path[:, 2])[0, 1] > 0.97 and area[-1] > 1.5 * area[0]


def test_clips_move_and_loop_frames_are_exact():
    for motion in MOTIONS:
        frames = render_clip(Clip.random(8, motion), 32)
        assert frames.shape == (8, 32, 32, 3) and frames.dtype == np.uint8
        # At the height of a jump two frames are alike.
        assert all(np.abs(a.astype(int) - b).mean() > 0.2 for a, b in zip(frames, frames[2:], strict=False)), motion
    assert np.array_equal(render_clip(Clip.random(8, "spin"), 32), render_clip(Clip.random(8, "spin"), 32))


def test_a_rolling_subject_never_sinks_into_the_ground():
    for class_name in ("chair", "dog", "lamp"):
        for degrees in range(0, 360, 30):
            posed = front(class_name, pose=Pose(roll_degrees=degrees)).table()
            low = posed[:, 2] - posed[:, 21]
            assert low.min() > -1.0
            assert (render(front(class_name, pose=Pose(roll_degrees=degrees)), 32).mask > 0).mean() > 0.05


def test_captions_of_the_second_ring_name_what_the_picture_shows():
    rng = np.random.default_rng(0)
    for index in range(300):
        scene = varied_scene(1, index)
        said = caption(scene, rng)
        if scene.style != "photo":
            assert scene.style.split()[0] in said, said
        else:
            assert not any(word in said for word in ("cartoon", "pencil", "pixel", "watercolor")), said
        if scene.accessory is None:
            assert "wearing" not in said, said
        if scene.companion:
            assert any(f" {phrase} " in said for phrase in RELATION_PHRASES[scene.companion.relation]), said
    for index in range(100):
        clip = training_clip(1, index)
        said = clip_caption(clip, rng)
        assert any(phrase in said for phrase in MOTION_PHRASES[clip.motion]), said


def test_no_training_scene_of_the_second_ring_shows_a_held_out_composition():
    subjects = [varied_scene(1, index).subject for index in range(300)]
    subjects += [companion.subject for index in range(300) if (companion := varied_scene(1, index).companion)]
    subjects += [training_clip(1, index).scene.subject for index in range(200)]
    assert not any(is_held_out(one.class_name, one.primary, one.secondary, one.pattern) for one in subjects)


@pytest.mark.parametrize("class_name", CLASS_NAMES)
def test_every_subject_has_a_closed_coloured_surface(class_name):
    subject = Subject.random(4, class_name)
    mesh, field = mesh_of(subject, 40), field_of(subject, 40)
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    volume = float((corners[:, 0] * normals).sum()) / 6
    cell = float(np.prod((field.high - field.low) / 39))
    assert volume == pytest.approx(float((field.values < 0).sum()) * cell, rel=0.15)
    edges = np.sort(mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all(), "it has holes"
    primary = np.array(subject.primary_rgb) * 255
    assert (np.abs(mesh.colours - primary).max(1) < 1).any()


def test_a_scene_without_extras_is_drawn_as_ever():
    plain = Scene.random(9)
    assert np.array_equal(render(plain, 32).image, render(replace(plain, pose=Pose(), style="photo"), 32).image)
    assert render(plain, 32).companion_mask is None
