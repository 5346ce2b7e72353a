"""A recipe: one screen of YAML, adapted to its base, changed by --set, checked whole, and dumped complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from modalities.core import plugins, recipe, recipe_text
from modalities.core.component import Component
from modalities.core.errors import PcsError

SHIPPED = sorted(recipe.available())


def test_there_are_recipes() -> None:
    assert len(SHIPPED) >= 4


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_loads_cites_and_fits_one_screen(name: str) -> None:
    loaded = recipe.load(name)
    assert loaded.modality == name.partition("/")[0]
    assert loaded.paper
    assert loaded.year
    assert len(recipe.available()[name].read_text().splitlines()) <= 60


@pytest.mark.parametrize("name", SHIPPED)
def test_a_dumped_recipe_is_the_recipe(name: str) -> None:
    loaded = recipe.load(name)
    again = recipe.parse(loaded.dump(), "dump")
    assert again.dump() == loaded.dump()
    assert [type(part) for part in again.components] == [type(part) for part in loaded.components]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_said_for_a_base_is_said_for_one_that_exists(name: str) -> None:
    import yaml

    from modalities.core import bases

    named = yaml.safe_load(recipe.available()[name].read_text()).get("bases", {})
    assert set(named) <= set(bases.entries())


def test_a_base_changes_only_what_its_section_says() -> None:
    paper = recipe.load("dreambooth_lora", backbone="someone/some-model")
    mini = recipe.load("dreambooth_lora")
    assert paper.train.learning_rate == 1e-4
    assert mini.train.learning_rate > paper.train.learning_rate
    assert mini.title == paper.title


def test_a_base_says_how_its_images_are_made_where_a_recipe_does_not() -> None:
    silent, own = "image/dreambooth_lora", "video/motiondirector"
    assert recipe.load(silent, backbone="flux-dev").sample == recipe.Sample(steps=28, guidance=3.5)
    assert recipe.load(silent, backbone="sd15").sample == recipe.Sample()
    assert recipe.load(own, backbone="sdxl").sample == recipe.Sample(steps=30, guidance=12.0)


def test_changes_win_over_the_base_and_reach_components_by_name() -> None:
    asked = ["train.steps=7", "components.lora.rank=3", "data.prompts=['my {}']", "train.steps=9"]
    changes = recipe_text.changes_of(asked)
    loaded = recipe.load("dreambooth_lora", changes)
    assert loaded.train.steps == 9
    assert loaded.component("lora").rank == 3  # type: ignore[union-attr]
    assert loaded.data.prompts == ["my {}"]


def test_a_component_set_to_null_is_dropped() -> None:
    loaded = recipe.load("dreambooth_lora", recipe_text.changes_of(["components.prior_preservation=null"]))
    assert loaded.component("prior_preservation") is None


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("2.5", 2.5), ("3", 3), ("true", True), ("a b", "a b")])
def test_values_of_changes_are_what_they_look_like(text: str, value: object) -> None:
    assert recipe_text.parse_change(f"a.b={text}") == {"a": {"b": value}}
    assert type(recipe_text.parse_change(f"a={text}")["a"]) is type(value)


def test_without_phases_everything_learns_in_one() -> None:
    method = recipe.load("dreambooth_lora", backbone="someone/else")
    (only,) = method.stretches()
    assert set(only.learn) == {"lora", "prior_preservation"}


def test_for_a_base_a_recipe_may_add_components() -> None:
    assert recipe.load("dreambooth_lora").component("textual_inversion")
    assert not recipe.load("dreambooth_lora", backbone="someone/else").component("textual_inversion")


def test_it_looks_five_times_unless_told() -> None:
    assert recipe.load("dreambooth_lora", {"train": {"steps": 200}}).look_every() == 40
    assert recipe.load("dreambooth_lora", {"validation": {"every": 7}}).look_every() == 7


def test_a_phase_that_names_no_component_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "phases.yaml"
    path.write_text("title: t\ncomponents: [lora]\nphases: [{learn: {loar: 0.1}, steps: 2}]\n")
    with pytest.raises(PcsError, match=r'phases\.0\.learn\.loar.*did you mean "lora"'):
        recipe.load(str(path))


def test_a_component_listed_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("title: t\ncomponents: [lora, lora]\n")
    with pytest.raises(PcsError, match="lora is listed twice"):
        recipe.load(str(path))


def test_every_component_file_is_found_and_cites_its_paper() -> None:
    found = plugins.names("components", "image")
    assert len(found) >= 4
    for name in found:
        face = plugins.load("components", name, Component, "image")
        module = __import__(face.__module__, fromlist=["x"])
        assert "https://" in (module.__doc__ or ""), name
        hooks = {"prepare", "parameters", "batch", "loss", "sampling"}
        own = [kind for kind in face.__mro__ if kind not in Component.__mro__]
        assert {key for kind in own for key in vars(kind)} & hooks, name


def test_a_user_adds_a_component_by_naming_it() -> None:
    changes = recipe_text.changes_of(["components.masked_loss.background=0.2", "components.captions={}"])
    loaded = recipe.load("dreambooth_lora", changes)
    assert {part.name for part in loaded.components[:2]} == {"masked_loss", "captions"}
    assert loaded.component("masked_loss").background == 0.2  # pyright: ignore
    for wrong in ("components.captions=null", "components.captiosn={}"):
        with pytest.raises(PcsError, match="no such component"):
            recipe.load("dreambooth_lora", recipe_text.changes_of([wrong]))
