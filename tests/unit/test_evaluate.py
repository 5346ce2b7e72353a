"""Metrics order known cases, agree with their reference implementations, and never hide what failed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.core import media
from modalities.core.cache import Cache
from modalities.core.device import choose
from modalities.core.encoders import TextImageEncoder
from modalities.core.errors import PcsError
from modalities.core.evaluate import Gate, evaluate, gates, known_metrics, named
from modalities.core.evaluation_page import Spot, pareto
from modalities.core.evidence import Evidence, Gallery, Picture, photos_of
from modalities.core.exam import read_templates
from modalities.core.machine import Machine
from modalities.core.metric import Scores
from modalities.core.progress import Silent
from modalities.mini.captions import CONTEXT_PHRASES
from modalities.mini.truth import write_scenes
from modalities.mini.world import CLASS_NAMES, CONTEXTS, Scene, Subject, render


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The CPU and the embedded encoders."""
    return Machine(choose("cpu"), Cache(tmp_path_factory.mktemp("cache")), offline=True)


def drawn(folder: Path, scenes: list[Scene], prompts: list[str | None] | None = None) -> Gallery:
    """Renders as a gallery."""
    folder.mkdir(parents=True)
    pictures: list[Picture] = []
    for number, scene in enumerate(scenes):
        path = folder / f"{number:03}.png"
        Image.fromarray(render(scene, 64).image).save(path)
        pictures.append(Picture(path, prompts[number] if prompts else None))
    return Gallery(folder.name, tuple(pictures))


def photographed(folder: Path, subject: Subject) -> Path:
    """Five rendered photos of a subject, the truth beside them."""
    scenes = [Scene.random(seed, subject, context) for seed, context in enumerate(CONTEXTS[:5])]
    return write_scenes(scenes, folder, 64, Silent())


def auc(high: list[float], low: list[float]) -> float:
    """How often a value of the first list is above one of the second."""
    return float(np.mean([[a > b for b in low] for a in high]))


# -- metrics order known cases -------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["dino_i", "identity"])
def test_likeness_puts_the_subject_above_its_class_and_its_class_above_others(metric, machine, tmp_path):
    own, kin, other = [], [], []
    for number, kind in enumerate(CLASS_NAMES[:8]):
        subject = Subject.random(700 + number, kind, held_out=True)
        photos = photos_of(photographed(tmp_path / kind, subject))
        strangers = [Subject.random(900 + number * 10 + i, kind, held_out=True) for i in range(6)]
        aliens = [Subject.random(990 + i, CLASS_NAMES[(number + 1 + i) % 15], held_out=True) for i in range(6)]
        for kept, subjects in ((own, [subject] * 6), (kin, strangers), (other, aliens)):
            scenes = [Scene.random(50 + i, one, CONTEXTS[6 + i]) for i, one in enumerate(subjects)]
            gallery = drawn(tmp_path / f"{kind}-{len(own)}-{len(kin)}-{len(other)}", scenes)
            scores = evaluate(Evidence(gallery, machine, photos), [metric]).results[metric].scores
            kept.append(scores.mean)
    assert auc(own, kin) >= 0.9
    assert auc(kin, other) >= 0.9


def test_clip_t_puts_the_right_context_above_wrong_ones(machine, tmp_path):
    scenes = [Scene.random(i, Subject.random(i, held_out=True), CONTEXTS[i % 12]) for i in range(36)]

    def said(scene: Scene, context: str) -> str:
        return f"a photo of a {scene.subject.class_name} {CONTEXT_PHRASES[context][0]}"

    right = drawn(tmp_path / "right", scenes, [said(scene, scene.context) for scene in scenes])
    wrong = drawn(tmp_path / "wrong", scenes, [said(scene, CONTEXTS[(i + 5) % 12]) for i, scene in enumerate(scenes)])
    high, low = (evaluate(Evidence(one, machine), ["clip_t"]).results["clip_t"].scores.values for one in (right, wrong))
    assert auc(list(high), list(low)) >= 0.9


def test_truth_tells_contexts_and_views(machine, tmp_path):
    subject = Subject.random(70, "car", held_out=True)
    photos = photos_of(photographed(tmp_path / "car", subject))
    scenes = [Scene.random(i, subject, CONTEXTS[i % 12]) for i in range(24)]
    views = [scene.camera.view for scene in scenes]
    true = [
        f"a car {CONTEXT_PHRASES[s.context][0]}" + (f", {v} view" if v else "")
        for s, v in zip(scenes, views, strict=True)
    ]
    found = evaluate(Evidence(drawn(tmp_path / "true", scenes, true), machine, photos), ["context", "view"]).results
    assert found["context"].scores.mean > 0.9
    assert found["view"].scores.mean > 0.75
    assert found["view"].scores.failed == views.count(None)
    false = ["a car on the moon" for _ in scenes]
    found = evaluate(Evidence(drawn(tmp_path / "false", scenes, false), machine, photos), ["context"]).results
    assert found["context"].scores.mean == pytest.approx(2 / 24)


def test_a_model_that_repeats_its_photos_is_found_out(machine, tmp_path):
    subject = Subject.random(71, "duck", held_out=True)
    folder = photographed(tmp_path / "duck", subject)
    photos = photos_of(folder)
    copies = Gallery.of_folder(folder)
    fresh = drawn(tmp_path / "fresh", [Scene.random(80 + i, subject, CONTEXTS[5 + i]) for i in range(7)])
    bad, good = (evaluate(Evidence(one, machine, photos), ["copy"]).results["copy"].scores for one in (copies, fresh))
    assert "repeats its photos" in bad.remark and bad.mean > 0.99
    assert "repeats" not in good.remark and good.mean < bad.mean


def test_diversity_is_nothing_for_one_picture_again_and_again(machine, tmp_path):
    scene, prompt = Scene.random(3), "a photo of it"
    same = drawn(tmp_path / "same", [scene] * 3, [prompt] * 3)
    unlike = drawn(tmp_path / "unlike", [Scene.random(i) for i in range(3)], [prompt] * 3)
    low, high = (evaluate(Evidence(one, machine), ["diversity"]).results["diversity"].scores for one in (same, unlike))
    assert low.mean == pytest.approx(0, abs=1e-5)
    assert high.mean > 0.2


# -- metrics agree with their reference implementations ------------------------------------------------------


def test_clip_t_is_what_transformers_says(machine, tmp_path):
    scenes = [Scene.random(i) for i in range(6)]
    prompts = [f"a photo of a {scene.subject.class_name}" for scene in scenes]
    gallery = drawn(tmp_path / "six", scenes, list(prompts))
    mine = evaluate(Evidence(gallery, machine), ["clip_t"]).results["clip_t"].scores.values
    encoder = TextImageEncoder(machine.clip, torch.device("cpu"), offline=True)
    inputs = encoder._processor(images=[Image.open(one.path) for one in gallery.pictures], return_tensors="pt")
    words = encoder._tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    words.pop("token_type_ids", None)
    with torch.no_grad():
        reference = encoder._model(**inputs, **words)
        cosines = reference.logits_per_image.diagonal() / encoder._model.logit_scale.exp()
    assert np.allclose(mine, cosines.numpy(), rtol=1e-4)


def test_fid_and_kid_are_what_their_definitions_say(machine, tmp_path):
    pytest.importorskip("torchmetrics")
    photos = photos_of(drawn_folder(tmp_path / "photos", [Scene.random(i) for i in range(40)]))
    gallery = drawn(tmp_path / "made", [Scene.random(100 + i) for i in range(40)])
    evidence = Evidence(gallery, machine, photos)
    found = evaluate(evidence, ["fid", "kid"]).results
    a, b = (one.double().numpy() for one in (evidence.features("subject"), evidence.references("subject")))
    from scipy.linalg import sqrtm

    root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    fid = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert found["fid"].scores.mean == pytest.approx(fid, rel=1e-4)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    within = [(kernel(x, x).sum() - kernel(x, x).trace()) / (len(x) * (len(x) - 1)) for x in (a, b)]
    assert found["kid"].scores.mean == pytest.approx(sum(within) - 2 * kernel(a, b).mean(), rel=1e-3, abs=1e-7)


def drawn_folder(folder: Path, scenes: list[Scene]) -> Path:
    """Renders in a folder."""
    drawn(folder, scenes)
    return folder


# -- spread, failures, absences ------------------------------------------------------------------------------


def test_intervals_hold_the_mean_and_shrink_with_more_pictures():
    rng = np.random.default_rng(0)
    few, many = (Scores.of_pictures(rng.normal(0.5, 0.1, n).tolist(), [str(i) for i in range(n)]) for n in (20, 500))
    for scores in (few, many):
        assert scores.low < scores.mean < scores.high
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_pictures_of_one_prompt_do_not_count_as_independent():
    values = [0.1] * 50 + [0.9] * 50
    alone = Scores.of_pictures(values, [str(i) for i in range(100)])
    grouped = Scores.of_pictures(values, ["a"] * 50 + ["b"] * 50)
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)


def test_an_unreadable_picture_is_counted_and_named(machine, tmp_path):
    gallery = drawn(tmp_path / "some", [Scene.random(i) for i in range(40)], ["a mug"] * 40)
    gallery.pictures[33].path.write_bytes(b"")
    report = evaluate(Evidence(gallery, machine), ["clip_t"])
    scores = report.results["clip_t"].scores
    assert (scores.n, scores.failed) == (39, 1)
    assert math.isnan(scores.values[33]) and math.isfinite(scores.mean)
    assert report.evidence.unreadable == (gallery.pictures[33].path,)


def test_what_cannot_run_says_why_and_the_others_run(machine, tmp_path):
    gallery = drawn(tmp_path / "some", [Scene.random(i) for i in range(2)], ["a mug", "a car"])
    report = evaluate(Evidence(gallery, machine), ["clip_t", "dino_i", "drift", "diversity"])
    assert list(report.results) == ["clip_t"]
    assert "--against" in report.absent["dino_i"]
    assert "at least two pictures" in report.absent["diversity"]


def test_an_absent_encoder_stops_only_its_metrics(tmp_path):
    machine = Machine(choose("cpu"), Cache(tmp_path / "cache"), offline=True, clip=str(tmp_path / "nowhere"))
    gallery = drawn(tmp_path / "some", [Scene.random(i) for i in range(3)], ["a mug"] * 3)
    photos = photos_of(tmp_path / "some")
    report = evaluate(Evidence(gallery, machine, photos), ["clip_t", "dino_i"])
    assert list(report.results) == ["dino_i"]
    assert "PCS_CLIP" in report.absent["clip_t"] and "nowhere" in report.absent["clip_t"]


def test_every_metric_file_is_known_and_says_what_it_is():
    assert {"clip_t", "clip_i", "dino_i", "lpips", "face", "fid", "kid", "diversity", "copy", "drift"} <= set(
        known_metrics()
    )
    assert named(["kid"]) == ["clip_t", "dino_i", "kid"], "the two axes always come along"
    with pytest.raises(PcsError, match="clip_t"):
        named(["clipt"])


# -- gates, prompts, folders ---------------------------------------------------------------------------------


def test_gates_are_read_and_nan_never_passes(machine, tmp_path):
    assert gates("subject>=0.6, text>0.28,copy<=.9") == [
        Gate("dino_i", ">=", 0.6),
        Gate("clip_t", ">", 0.28),
        Gate("copy", "<=", 0.9),
    ]
    gallery = drawn(tmp_path / "some", [Scene.random(0)], ["a mug"])
    gallery.pictures[0].path.write_bytes(b"no picture")
    report = evaluate(Evidence(gallery, machine), ["clip_t"])
    assert math.isnan(report.results["clip_t"].scores.mean)
    assert not gates("text>=-1")[0].passes(report)
    assert not gates("text<=1")[0].passes(report)


@pytest.mark.parametrize("text", ["subject", "subject>=x", "beauty>=1", "", ">=3"])
def test_a_gate_that_means_nothing_is_refused(text):
    with pytest.raises(PcsError, match="--gate"):
        gates(text)


def test_listed_prompts_and_missing_pictures(tmp_path):
    folder = drawn_folder(tmp_path / "some", [Scene.random(i) for i in range(2)])
    listing = tmp_path / "prompts.csv"
    listing.write_text('file,prompt\n000.png,a mug\n001.png,"a car, red"\n002.png,a dog\n')
    gallery = Gallery.of_folder(folder, listing)
    assert [one.prompt for one in gallery.pictures] == ["a mug", "a car, red"]
    assert "1 of its pictures are missing" in gallery.remarks[0] and "002.png" in gallery.remarks[0]
    listing.write_text("name,text\n000.png,a mug\n")
    with pytest.raises(PcsError, match=r"prompts\.csv"):
        Gallery.of_folder(folder, listing)
    with pytest.raises(PcsError, match="no pictures"):
        (tmp_path / "empty").mkdir()
        Gallery.of_folder(tmp_path / "empty")


def test_a_picture_tells_its_own_prompt(tmp_path):
    media.save_png(Image.new("RGB", (32, 32)), tmp_path / "one.png", {"prompt": "a <new> mug", "class_prompt": "a mug"})
    media.save_png(Image.new("RGB", (32, 32)), tmp_path / "sheet-seed0.png")
    assert [one.prompt for one in Gallery.of_folder(tmp_path).pictures] == ["a mug"]


def test_templates_need_their_slot(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# where it goes\na {} in the snow\n\na {} on the beach\n")
    assert read_templates(path) == ("a {} in the snow", "a {} on the beach")
    for text in ("a mug\n", "# nothing\n"):
        path.write_text(text)
        with pytest.raises(PcsError, match=r"prompts\.txt"):
            read_templates(path)


def test_the_pareto_front_holds_what_nothing_beats():
    spots = [Spot(*point, "", "mean") for point in ((0.1, 0.9), (0.2, 0.8), (0.15, 0.7), (0.3, 0.3), (0.3, 0.2))]
    assert [(one.text, one.subject) for one in pareto(spots)] == [(0.1, 0.9), (0.2, 0.8), (0.3, 0.3)]


class OneFace:
    """A detector that finds a face wherever a picture is bright."""

    def get(self, pixels: np.ndarray) -> list[object]:
        if pixels.mean() < 100:
            return []
        face = type("Found", (), {})()
        face.bbox = np.array((0, 0, 10, 10))
        face.normed_embedding = np.array((1.0, 0.0)) if pixels[..., 0].mean() > 150 else np.array((0.6, 0.8))
        return [face]


def test_pictures_without_a_face_are_counted_and_not_scored(machine, tmp_path, monkeypatch):
    from modalities.core.metrics import face

    monkeypatch.setattr(face, "detector", OneFace)
    for folder, colours in (("photos", ["white"]), ("made", ["white", "black", (220, 120, 120)])):
        (tmp_path / folder).mkdir()
        for number, colour in enumerate(colours):
            Image.new("RGB", (64, 64), colour).save(tmp_path / folder / f"{number}.png")
    gallery = Gallery.of_folder(tmp_path / "made")
    scores = evaluate(Evidence(gallery, machine, photos_of(tmp_path / "photos")), ["face"]).results["face"].scores
    assert (scores.n, scores.failed) == (2, 1)
    assert scores.values[0] == pytest.approx(1.0) and scores.values[2] == pytest.approx(0.6)
    assert "no face in 1 of 3" in scores.remark
