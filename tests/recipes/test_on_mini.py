"""Learning a subject on the embedded base, judged against the truth of its world.

The subject is of a composition that no training picture showed; contexts of the photos and of the prompts differ.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from statistics import mean

import pytest
import torch
from PIL import Image

from modalities.core import bases, generate, media, recipe
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.evaluate import evaluate
from modalities.core.evidence import Evidence, photos_of
from modalities.core.exam import Exam
from modalities.core.machine import Machine
from modalities.core.merge import Share, Together, compare
from modalities.core.metrics.dino_i import SubjectSimilarity
from modalities.core.personalize import personalize
from modalities.core.progress import Silent
from modalities.core.studio import Studio
from modalities.mini.check import accuracy, draw, held_out_scenes, labels_of_all, load_probe, prompt_of
from modalities.mini.probe import HEADS
from modalities.mini.world import Camera, Scene, Subject, render

BASE = Path(__file__).parents[2] / "modalities" / "mini" / "weights"
TAKEN_IN = ("table", "street", "red studio", "forest", "blue studio")
ASKED_FOR = {"snow": "a {} in the snow", "beach": "a {} on the beach", "grass": "a {} on the grass"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """The CPU and the embedded encoders."""
    return Machine(choose("cpu"), Cache(tmp_path / "cache"), offline=True)


def photos(folder: Path, subject: Subject) -> Path:
    """Five pictures of a subject all round, each in another context, 128 pixels wide."""
    folder.mkdir()
    for number, context in enumerate(TAKEN_IN):
        camera = Camera(azimuth_degrees=-80 + 45 * number, elevation_degrees=12 + 2 * number)
        picture = render(Scene(subject, context, camera), 128).image
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def learn(name: str, subject: Subject, machine: Machine, folder: Path, **changes: object) -> Artifact:
    """Personalize mini on five photos of the subject."""
    method = recipe.load(name, changes)
    concept = Concept.from_folder(
        photos(folder / "photos", subject), noun=subject.class_name, subject=method.data.subject
    )
    return personalize(method, concept, folder / "run", machine)


def test_the_base_draws_what_it_is_asked_for() -> None:
    scenes = held_out_scenes(24)
    drawn = draw(BASE, [prompt_of(scene) for scene in scenes], steps=15, guidance=3.0)
    right = accuracy(load_probe(BASE), drawn, labels_of_all(scenes))
    assert right["context"] > 0.9
    assert right["class"] > 0.7


def test_a_few_steps_lower_the_held_out_loss_and_raise_the_likeness(machine: Machine, tmp_path: Path) -> None:
    few = {"train": {"steps": 40}, "validation": {"every": 40}, "sample": {"steps": 10}}
    run = learn("image/dreambooth_lora", Subject.random(9001, "mug", held_out=True), machine, tmp_path, **few)
    before, *_, after = [line for line in run.metrics() if "balance" in line]
    assert after["loss"] < 0.97 * before["loss"]
    assert after["subject"] > before["subject"]


def test_the_base_says_where_photos_were_taken_and_from_which_side(machine: Machine, tmp_path: Path) -> None:
    places = ("on a table", "on the street", "on a red background", "in the forest", "on a blue background")
    few = {"captions": {"source": "base", "places": ["in the snow", *places], "views": [", front view", ", side view"]}}
    method = recipe.load("image/dreambooth_lora", {"components": [few], "data": {"subject": "sks {noun}"}})
    car = Subject.random(9002, "car", held_out=True)
    concept = Concept.from_folder(photos(tmp_path / "photos", car), noun="car", subject=method.data.subject)
    studio = Studio(machine.backbone("mini"), concept, method, training=True, cache=machine.cache)
    said = [studio.components[0].said(number, "a photo of sks car") for number in range(5)]
    assert sum(one.startswith(f"a photo of sks car {place}") for one, place in zip(said, places, strict=True)) >= 4
    # The first is taken from the side (-80 degrees), the third from the front (10).
    assert said[0].endswith(", side view")
    assert said[2].endswith(", front view")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dreambooth", "dreambooth_lora", "neti", "pivotal_tuning", "textual_inversion"])
def test_subjects_are_there_in_contexts_they_were_never_seen_in(name: str, machine: Machine, tmp_path: Path) -> None:
    prompts, gained = list(ASKED_FOR.values()), []
    for kind in ("mug", "robot", "backpack"):
        place = tmp_path / kind
        place.mkdir()
        run = learn(f"image/{name}", Subject.random(9002, kind, held_out=True), machine, place)
        studio, concept = run.studio(machine), run.concept()
        references = [Image.open(path) for path in sorted((place / "photos").iterdir())]
        likeness = SubjectSimilarity(machine.encoders()[0], references)
        mine = generate.previews(studio, [concept.prompt(prompt) for prompt in prompts], 4)
        plain = draw(BASE, [concept.class_prompt(prompt) for prompt in prompts for _ in range(4)], 25, 3.0)
        learned, base = mean(likeness.score(mine)), mean(likeness.score([media.to_image(pixels) for pixels in plain]))
        # The photos among themselves are as alike as anything can be.
        gained.append((learned - base) / (likeness.ceiling() - base))
        seen = load_probe(BASE)(torch.stack([media.to_pixels(picture) for picture in mine]))["context"].argmax(1)
        asked = torch.tensor([HEADS["context"].index(context) for context in ASKED_FOR]).repeat_interleave(4)
        assert (seen == asked).float().mean() >= 0.75, kind
    assert min(gained) > 0.1, gained
    assert mean(gained) > 0.4, gained


@pytest.mark.slow
def test_a_model_that_was_trained_far_too_long_is_found_to_repeat_its_photos(machine: Machine, tmp_path: Path) -> None:
    too_long = {
        "components": {"prior_preservation": None},
        "train": {"steps": 500, "learning_rate": 5e-4, "schedule": "constant"},
        "validation": {"select": "last", "patience": None},
    }
    said = {}
    for name, changes in (("dreambooth", too_long), ("dreambooth_lora", {})):
        (tmp_path / name).mkdir()
        run = learn(f"image/{name}", Subject.random(9002, "mug", held_out=True), machine, tmp_path / name, **changes)
        drawn = Exam(tuple(ASKED_FOR.values()), 4).sit(run, machine, Silent())
        evidence = Evidence(drawn, machine, photos_of(tmp_path / name / "photos"))
        said[name] = evaluate(evidence, ["copy"]).results["copy"].scores
    assert "repeats its photos" in said["dreambooth"].remark
    assert "repeats" not in said["dreambooth_lora"].remark
    assert said["dreambooth_lora"].high < said["dreambooth"].low


@pytest.mark.slow
def test_closing_perfusions_gate_after_training_takes_the_subject_out(machine: Machine, tmp_path: Path) -> None:
    run = learn("image/perfusion", Subject.random(9002, "mug", held_out=True), machine, tmp_path)
    likeness = SubjectSimilarity(machine.encoders()[0], [photo.open() for photo in run.photos()[0]])
    prompts = [run.concept().prompt(prompt) for prompt in ASKED_FOR.values()]
    scores: list[float] = []
    for beta in (0.5, 0.9, 1.1, 1.5):
        studio = run.studio(machine, None, {"components": {"rank_one_edit": {"beta": beta}}})
        scores.append(mean(likeness.score(generate.previews(studio, prompts, 4))))
    # A gate that is wide open lets the whole word in; there its middle does not matter.
    assert all(later < earlier + 0.01 for earlier, later in itertools.pairwise(scores)), scores
    assert scores[0] - scores[-1] > 0.15, scores


@pytest.mark.slow
def test_cross_initialization_keeps_its_word_as_long_as_it_began_and_textual_inversion_does_not(
    machine: Machine, tmp_path: Path
) -> None:
    grown: dict[str, float] = {}
    for name, steps in (("cross_initialization", 60), ("textual_inversion", 120)):
        few = {"train": {"steps": steps}, "validation": {"every": steps, "images": 1, "select": "last"}}
        (tmp_path / name).mkdir()
        run = learn(f"image/{name}", Subject.random(9002, "robot", held_out=True), machine, tmp_path / name, **few)
        backbone = bases.load(bases.resolve("mini"), machine.device, offline=True)
        studio = Studio(backbone, run.concept(), run.recipe(), training=False, cache=machine.cache)
        start, learned = studio.weights(), run.weights()
        lengths = [float(one["textual_inversion.text_encoder"].norm(dim=1).mean()) for one in (start, learned)]
        grown[name] = abs(lengths[1] / lengths[0] - 1)
    assert grown["cross_initialization"] < 0.03 < 0.05 < grown["textual_inversion"], grown


@pytest.mark.slow
def test_two_subjects_learned_together_are_both_there_and_told_apart(machine: Machine, tmp_path: Path) -> None:
    last = {"every": 120, "images": 1, "select": "last"}
    method = recipe.load("image/dreambooth_lora", {"train": {"steps": 120}, "validation": last})
    parts: list[Concept] = []
    for number, kind in enumerate(("mug", "robot"), start=1):
        folder = photos(tmp_path / kind, Subject.random(9002, kind, held_out=True))
        parts.append(Concept.from_folder(folder, noun=kind, subject=method.data.subject, number=number))
    run = personalize(method, Concept.together(parts), tmp_path / "run", machine)
    studio = run.studio(machine)
    judges = [SubjectSimilarity(machine.encoders()[0], [photo.open() for photo in some]) for some in run.photos()]
    for number, one in enumerate(studio.concept.subjects):
        images = generate.previews(studio, [one.prompt(prompt) for prompt in ASKED_FOR.values()], 4)
        own, other = (mean(judges[place].score(images)) for place in (number, 1 - number))
        assert own > 0.5 and own > other + 0.3, (one.noun, own, other)


@pytest.mark.slow
def test_fusing_six_subjects_keeps_more_of_each_than_adding_them(machine: Machine, tmp_path: Path) -> None:
    shares: list[Share] = []
    for kind in ("mug", "robot", "car", "house", "teapot", "chair"):
        (tmp_path / kind).mkdir()
        subject = Subject.random(9003, kind, held_out=True)
        shares.append(Share(learn("image/custom_diffusion", subject, machine, tmp_path / kind)))
    photos_of_all = [share.run.photos()[0] for share in shares]
    own: dict[str, float] = {}
    bleed: dict[str, float] = {}
    for method in ("add", "fuse"):
        studio = Together.of(shares).merged(machine, Silent(), method=method).studio(machine)
        table = compare(shares, studio, photos_of_all, machine, Silent()).merged
        own[method] = mean(table[i][i] for i in range(6))
        bleed[method] = mean(table[i][j] for i in range(6) for j in range(6) if i != j)
    assert own["fuse"] > own["add"] + 0.02, own
    assert own["fuse"] - bleed["fuse"] > own["add"] - bleed["add"], (own, bleed)
