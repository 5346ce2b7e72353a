"""Several subjects: learned together, or merged afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modalities.core import generate, layer_inputs
from modalities.core.artifact import Artifact
from modalities.core.concept import Concept, phrase_of
from modalities.core.errors import PcsError
from modalities.core.machine import Machine
from modalities.core.media import to_pixels
from modalities.core.merge import Share, Together
from modalities.core.personalize import personalize
from modalities.core.progress import Silent
from modalities.core.studio import Studio
from tests import driver, tiny

FEW: dict[str, Any] = {"phases": [], "train": {"steps": 4, "learning_rate": 0.02, "batch": 2}}
WORDS = {"textual_inversion": {"token": "<new>"}}
LORA = {"lora": {"rank": 2, "alpha": 1, "layers": "attention+convolutions", "text_encoder": 2}}
KEYS = {"full_finetune": {"layers": "cross_attention.kv"}}


@pytest.fixture(scope="module")
def machine(encoders: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return driver.machine(encoders, tmp_path_factory.mktemp("several") / "cache")


def concept(folder: Path, subject: str = "<new> {noun}") -> Concept:
    """Two subjects, each with photos of its own."""
    parts = [
        Concept.from_folder(tiny.photos(folder / noun, seed=number), noun=noun, subject=subject, number=number)
        for number, noun in enumerate(("dog", "cat"), start=1)
    ]
    return Concept.together(parts)


def alone(folder: Path, base: Path, machine: Machine, noun: str, learner: dict[str, Any], seed: int) -> Artifact:
    """A run of one subject."""
    method = driver.method(base, components=[WORDS, learner], data={"subject": "<new> {noun}"}, **FEW)
    method = method.model_copy(update={"train": method.train.model_copy(update={"seed": seed})})
    one = Concept.from_folder(tiny.photos(folder / noun, seed=seed), noun=noun, subject="<new> {noun}")
    return personalize(method, one, folder / f"run-{noun}-{next(iter(learner))}", machine)


@pytest.fixture(scope="module", params=[LORA, KEYS], ids=lambda learner: next(iter(learner)))
def runs(
    request: pytest.FixtureRequest, base: Path, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> list[Share]:
    folder = tmp_path_factory.mktemp("alone")
    return [Share(alone(folder, base, machine, noun, request.param, seed)) for seed, noun in enumerate(("dog", "cat"))]


# -- words -------------------------------------------------------------------------------------------------------------


def test_every_subject_has_words_of_its_own() -> None:
    assert [phrase_of("sks {noun}", "dog", number) for number in (1, 2, 3)] == ["sks dog", "ohwx dog", "zwx dog"]
    assert [phrase_of("<new> {noun}", "dog", number) for number in (1, 2)] == ["<new> dog", "<new-2> dog"]
    pair = Concept.together([Concept("dog", "sks dog"), Concept("cat", "ohwx cat")])
    assert pair.prompt("a {2} on a {1}") == "a ohwx cat on a sks dog"
    assert pair.class_prompt("a {2} on a {1}") == "a cat on a dog"


@pytest.mark.parametrize("template", ["a {} in the snow", "a dog", "a {1} and a {1}", "a {1} and a {3}"])
def test_a_prompt_with_other_slots_is_refused_and_the_slots_are_told(template: str) -> None:
    pair = Concept.together([Concept("dog", "sks dog"), Concept("cat", "ohwx cat")])
    with pytest.raises(PcsError, match=r"\{1\} for sks dog, \{2\} for ohwx cat"):
        pair.prompt(template)


def test_two_subjects_of_one_name_are_refused() -> None:
    with pytest.raises(PcsError, match='both be called "my dog"'):
        Concept.together([Concept("dog", "my dog"), Concept("dog", "my dog")])


# -- learned together --------------------------------------------------------------------------------------------------


def test_photos_meet_the_words_of_their_own_subject(base: Path, machine: Machine, tmp_path: Path) -> None:
    from modalities.core import bases
    from modalities.core.trainer import Trainer

    parts = [WORDS, LORA, {"prior_preservation": {"source": "output"}}]
    method = driver.method(base, components=parts, data={"subject": "<new> {noun}", "flip": True}, **FEW)
    pair = concept(tmp_path)
    backbone = bases.load(bases.resolve(str(base)), machine.device, offline=True)
    trainer = Trainer(Studio(backbone, pair, method, training=True, cache=machine.cache))
    seen: set[str] = set()
    for _ in range(6):
        batch = trainer.batch()
        count = len(batch.prompts) // 2
        for place, said, prior in zip(batch.positions, batch.prompts[:count], batch.prompts[count:], strict=False):
            noun = pair.owners[trainer.studio.photo_at(place)].noun
            assert said.endswith(noun)
            assert prior == f"a photo of {noun}"
            seen.add(said)
        trainer.step += 1
    assert seen == {"a photo of <new> dog", "a photo of <new-2> cat"}


def test_a_run_of_two_subjects_is_written_and_opened_again(base: Path, machine: Machine, tmp_path: Path) -> None:
    method = driver.method(base, components=[WORDS, LORA], data={"subject": "<new> {noun}"}, **FEW)
    run = personalize(method, concept(tmp_path), tmp_path / "run", machine)
    assert [one["phrase"] for one in run.subjects()] == ["<new> dog", "<new-2> cat"]
    assert [len(some) for some in run.photos()] == [3, 3]
    weights = run.weights()
    first, second = weights["textual_inversion.text_encoder"], weights["textual_inversion.text_encoder.2"]
    assert first.shape == second.shape and not torch.equal(first, second)
    assert (run.portable / "learned_embeds_2.safetensors").is_file()
    studio = run.studio(machine)
    picture = generate.of_studio(studio, studio.concept.prompt("a {1} beside a {2}"), seed=0, index=0)
    assert picture.size == (studio.resolution, studio.resolution)


def test_methods_of_one_subject_say_so(base: Path, machine: Machine, tmp_path: Path) -> None:
    method = driver.method(base, components=[WORDS, "rank_one_edit"], data={"subject": "<new> {noun}"}, **FEW)
    with pytest.raises(PcsError, match=r"rank_one_edit: learns one subject at a time.*pcs merge"):
        personalize(method, concept(tmp_path, "<new> {noun}"), tmp_path / "run", machine)


LAYERED = [{"token_table": {"vectors": 2, "stages": 2}}, {"token_mapper": {"vectors": 2, "hidden": 8}}]


@pytest.mark.parametrize("component", LAYERED)
def test_words_for_every_layer_are_learned_together_and_merged(
    component: dict[str, Any], base: Path, machine: Machine, tmp_path: Path
) -> None:
    settings = {"components": [component], "data": {"subject": "<new>"}} | FEW
    pair = personalize(driver.method(base, **settings), concept(tmp_path, "<new>"), tmp_path / "pair", machine)
    weights = pair.weights()
    twins = [(name, f"{name}.2") for name in weights if f"{name}.2" in weights]
    assert len(twins) == len(weights) / 2
    assert any(not torch.equal(weights[one], weights[other]) for one, other in twins)
    alone = [
        personalize(driver.method(base, **settings), one, tmp_path / "runs" / one.noun, machine)
        for one in (replace(each, phrase="<new>") for each in concept(tmp_path, "<new>").subjects)
    ]
    together = Together.of([Share(run) for run in alone]).merged(machine, Silent(), method="add").studio(machine)
    assert [one.phrase for one in together.concept.subjects] == ["<new>", "<new-2>"]
    for run, subject in zip(alone, together.concept.subjects, strict=True):
        own = generate.of_studio(run.studio(machine), "a photo of a <new>", seed=0, index=0)
        merged = generate.of_studio(together, subject.prompt("a photo of a {}"), seed=0, index=0)
        assert own.tobytes() == merged.tobytes()


def test_networks_of_words_from_other_seeds_do_not_merge(base: Path, machine: Machine, tmp_path: Path) -> None:
    runs: list[Share] = []
    for seed, one in enumerate(concept(tmp_path, "<new>").subjects):
        settings: dict[str, Any] = {"components": LAYERED[1:], "data": {"subject": "<new>"}} | FEW
        settings["train"] = settings.get("train", {}) | {"seed": seed}
        method = driver.method(base, **settings)
        runs.append(Share(personalize(method, replace(one, phrase="<new>"), tmp_path / "runs" / one.noun, machine)))
    with pytest.raises(PcsError, match="began from seed 1 and that of"):
        Together.of(runs)


# -- merged ------------------------------------------------------------------------------------------------------------


def _changes(studio: Studio, plain: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """How far every layer is from the base, adapters folded in."""
    with studio.sampling():
        return {name: value - plain[name] for name, value in _layers(studio).items()}


def _layers(studio: Studio) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name.replace('.base_layer', '')}": value.detach().clone()
        for part, network in studio.backbone.modules().items()
        for name, value in network.named_parameters()
        if "lora_" not in name and "token_embedding" not in name
    }


@pytest.fixture
def plain(base: Path, machine: Machine) -> dict[str, torch.Tensor]:
    from modalities.core import bases

    backbone = bases.load(bases.resolve(str(base)), machine.device, offline=True)
    method = driver.method(base, components=[], phases=[])
    return _layers(Studio(backbone, Concept("dog", "dog"), method, training=False, cache=machine.cache))


def test_added_changes_are_the_weighted_sum(
    runs: list[Share], machine: Machine, plain: dict[str, torch.Tensor]
) -> None:
    shares = [runs[0], Share(runs[1].run, 0.5)]
    merged = _changes(Together.of(shares).studio(machine, Silent()), plain)
    first, second = (_changes(share.run.studio(machine), plain) for share in shares)
    moved = [name for name in plain if first[name].abs().max() > 0]
    assert moved
    for name in plain:
        assert torch.allclose(merged[name], first[name] + 0.5 * second[name], atol=1e-6), name


def test_fused_changes_keep_to_each_runs_own_inputs_better_than_added_ones(
    runs: list[Share], machine: Machine, plain: dict[str, torch.Tensor]
) -> None:
    """The objective itself, on the inputs that each run's layers see, layer by layer."""
    together = Together.of(runs)
    fused, added = (
        _changes(together.merged(machine, Silent(), method=method).studio(machine), plain) for method in ("fuse", "add")
    )
    seen, own = [], []
    for share in runs:
        studio = share.run.studio(machine)
        prompts = [studio.concept.prompt(template) for template in studio.recipe.validation.prompts]
        seen.append(layer_inputs.second_moments(studio, prompts))
        own.append(_changes(share.run.studio(machine), plain))
    errors = {"fused": 0.0, "added": 0.0}
    for layer in seen[0]:
        name = f"{layer}.weight"
        for method, changes in (("fused", fused), ("added", added)):
            for moments, change in zip(seen, own, strict=True):
                off = (changes[name] - change[name]).flatten(1).double()
                errors[method] += float(((off @ moments[layer]) * off).sum())
    assert errors["fused"] < 0.6 * errors["added"], errors


def test_a_merged_run_draws_what_a_run_of_one_subject_draws_when_the_other_counts_nothing(
    runs: list[Share], machine: Machine
) -> None:
    merged = Together.of([runs[0], Share(runs[1].run, 0.0)]).studio(machine, Silent())
    mine = generate.of_studio(merged, "a <new> dog in the snow", seed=0, index=0)
    own = generate.of_studio(runs[0].run.studio(machine), "a <new> dog in the snow", seed=0, index=0)
    assert float((to_pixels(mine) - to_pixels(own)).abs().max()) <= 2 / 255


def test_a_merged_run_is_a_run(runs: list[Share], machine: Machine, tmp_path: Path) -> None:
    merged = Together.of(runs).merged(machine, Silent(), method="add")
    run = merged.save(tmp_path / "both", machine, {"method": "add"})
    again = Artifact.open(tmp_path / "both")
    assert [one["phrase"] for one in again.subjects()] == ["<new> dog", "<new-2> cat"]
    asked = again.concept().prompt("a {1} beside a {2}")
    first = generate.of_studio(merged.studio(machine), asked, seed=0, index=0)
    assert first.tobytes() == generate.of_studio(run.studio(machine), asked, seed=0, index=0).tobytes()
    assert again.about()["portable"]


def test_runs_that_do_not_fit_are_refused(runs: list[Share], machine: Machine, base: Path, tmp_path: Path) -> None:
    other = "full_finetune" if "lora" in runs[0].run.recipe().dump() else "lora"
    odd = alone(tmp_path, base, machine, "cat", {other: {}}, 3)
    with pytest.raises(PcsError, match=r"learned other layers.*use the same recipe"):
        Together.of([runs[0], Share(odd)])
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(runs[1].run.folder, elsewhere)
    about = json.loads((elsewhere / "run.json").read_text())
    (elsewhere / "run.json").write_text(json.dumps(about | {"base_fingerprint": "another"}))
    with pytest.raises(PcsError, match="was trained on another base"):
        Together.of([runs[0], Share(Artifact.open(elsewhere))])
