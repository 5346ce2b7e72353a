"""The mini world draws the same bytes for the same seed, and what it says about its pictures is true."""

import re

import numpy as np
import pytest

from modalities.mini.captions import CONTEXT_PHRASES, IDENTIFIERS, VIEW_WORDS, caption
from modalities.mini.shapes import CLASSES
from modalities.mini.shards import training_scene
from modalities.mini.world import (
    CLASS_NAMES,
    COLOUR_NAMES,
    CONTEXTS,
    Camera,
    Scene,
    Subject,
    is_held_out,
    render,
)

COLOUR_OF_WORD = {name: name for name in COLOUR_NAMES} | {
    "grey": "gray",
    "turquoise": "cyan",
    "teal": "cyan",
    "violet": "purple",
}
PATTERN_OF_WORD = {
    "striped": "striped", "stripes": "striped", "bands": "striped", "dotted": "dotted", "spotted": "dotted",
    "dots": "dotted", "spots": "dotted", "polka": "dotted", "checkered": "checkered", "checked": "checkered",
    "checks": "checkered", "squares": "checkered",
}  # fmt: skip


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others():
    first, again, other = (render(Scene.random(seed), 32) for seed in (7, 7, 8))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.depth, again.depth)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("class_name", CLASS_NAMES)
def test_every_class_fills_the_frame_and_agrees_with_its_depth(class_name):
    for seed in range(3):
        camera = Camera(azimuth_degrees=70 * seed, elevation_degrees=15 + 20 * seed, distance=3.0)
        picture = render(Scene(Subject.random(seed, class_name), "snow", camera), 64)
        covered = picture.mask > 0
        assert picture.image.shape == (64, 64, 3) and picture.image.dtype == np.uint8
        assert 0.08 < covered.mean() < 0.8
        assert covered[16:48, 16:48].any()
        assert np.array_equal(picture.depth > 0, covered)
        assert picture.depth[covered].min() > 1.5 and picture.depth.max() < 4.6


def test_every_context_looks_different_from_low_and_from_above():
    subject = Subject.random(3, "duck")
    for elevation in (12, 65):
        camera = Camera(elevation_degrees=elevation)
        means = [render(Scene(subject, context, camera), 32).image.reshape(-1, 3).mean(0) for context in CONTEXTS]
        gaps = [np.abs(a - b).sum() for i, a in enumerate(means) for b in means[:i]]
        assert min(gaps) > 3


def test_the_camera_goes_round_the_subject():
    subject = Subject.random(11, "house")
    front, back = (render(Scene(subject, "snow", Camera(azimuth_degrees=azimuth)), 32).image for azimuth in (0, 180))
    assert np.abs(front.astype(int) - back).mean() > 2


@pytest.mark.parametrize(
    ("azimuth", "elevation", "view"),
    [(0, 10, "front"), (350, 10, "front"), (90, 10, "side"), (270, 5, "side"), (180, 10, "back"), (45, 10, None)],
)
def test_views_have_the_names_that_people_give_them(azimuth, elevation, view):
    assert Camera(azimuth, elevation).view == view
    assert Camera(azimuth, 60).view == "top"


def test_captions_tell_the_truth():
    rng = np.random.default_rng(0)
    for index in range(400):
        scene = training_scene(1, index)
        said = caption(scene, rng)
        assert len(said) > 2 and "  " not in said and said == said.strip(), said
        _assert_true(said, scene)


def _assert_true(said: str, scene: Scene) -> None:
    subject = scene.subject
    for context, phrases in CONTEXT_PHRASES.items():
        for phrase in sorted(phrases, key=len, reverse=True):
            if re.search(rf"\b{phrase}\b", said):
                assert phrase in CONTEXT_PHRASES[scene.context], (said, context)
                said = said.replace(phrase, "")
    for view, phrases in VIEW_WORDS.items():
        assert view == scene.camera.view or not any(phrase in said for phrase in phrases), said
    kind = CLASSES[subject.class_name]
    assert any(noun in said for noun in (*kind.nouns, *kind.kinds)), said
    for word in re.findall(r"\w+", said):
        assert COLOUR_OF_WORD.get(word, subject.primary) in (subject.primary, subject.secondary), said
        assert PATTERN_OF_WORD.get(word, subject.pattern) == subject.pattern, said


def test_identifier_words_are_common_enough_and_tell_nothing():
    rng = np.random.default_rng(0)
    said = [caption(training_scene(1, index), rng) for index in range(600)]
    share = np.mean([any(word in IDENTIFIERS for word in one.split()) for one in said])
    assert 0.11 < share < 0.2


def test_training_scenes_never_show_a_held_out_composition():
    drawn = [Subject.random(seed) for seed in range(400)]
    kept = [Subject.random(seed, held_out=True) for seed in range(60)]
    compositions = {(one.class_name, one.primary, one.secondary, one.pattern) for one in kept}
    assert all(is_held_out(*composition) for composition in compositions)
    assert not any(is_held_out(s.class_name, s.primary, s.secondary, s.pattern) for s in drawn)
    assert not any(
        is_held_out(s.class_name, s.primary, s.secondary, s.pattern)
        for s in (training_scene(1, index).subject for index in range(400))
    )


def test_about_a_tenth_of_all_compositions_is_held_out():
    found = [
        is_held_out(name, first, second, pattern)
        for name in CLASS_NAMES
        for first in COLOUR_NAMES
        for second in COLOUR_NAMES
        for pattern in ("plain", "striped")
        if first != second
    ]
    assert 0.08 < np.mean(found) < 0.12


def test_identity_is_the_same_in_every_scene_and_differs_between_subjects():
    subject = Subject.random(5, "car")
    assert subject.identity.shape == (19,) and subject.identity.dtype == np.float32
    assert np.array_equal(subject.identity, Scene.random(9, subject=subject).subject.identity)
    assert not np.array_equal(subject.identity, Subject.random(6, "car").identity)
