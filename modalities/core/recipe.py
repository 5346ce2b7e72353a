"""A paper's method written down as one YAML of one screen, checked whole before any model loads."""

from __future__ import annotations

import importlib
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

import modalities
from modalities.core import plugins
from modalities.core.component import Component, Template
from modalities.core.errors import PcsError, did_you_mean
from modalities.core.mistakes import explained, mistaken
from modalities.core.recipe_text import merge, named, plain, read

LOOKS = 5
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """How photos and words become training pairs."""

    subject: str = "sks {noun}"
    """The phrase for the subject that fills `{}` in a prompt; `{noun}` is the class word."""
    prompts: Annotated[list[Template], Field(min_length=1)] = ["a photo of {}"]
    """Training prompts, each photo with each in turn."""
    resolution: Positive | None = None
    """Side in pixels of the square that photos are resized and cropped to; None is the base's own."""
    flip: bool = False
    """Also train on mirrored photos. Off for subjects with writing or a left and a right."""


class Train(Section):
    """The optimization: AdamW on everything that the components learn."""

    steps: Positive = 400
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    batch: Positive = 1
    """Photos per step, before components add to it."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after the warm-up; linear and cosine end at a tenth of it."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this norm; None leaves them."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: about a third slower, far less memory."""
    seed: Annotated[int, Field(ge=0)] = 0


class Phase(Section):
    """A stretch of training in which only the named components learn."""

    learn: dict[str, Annotated[float, Field(gt=0)]]
    """Learning rate of each component that learns in this phase."""
    steps: Positive


class Validation(Section):
    """What is measured while training, and what is done with it."""

    every: Positive | None = None
    """Steps between two looks; None looks five times in a run."""
    prompts: Annotated[list[Template], Field(min_length=1)] = [
        "a photo of {}",
        "a {} in the snow",
        "a {} on the beach",
        "a {} in the grass",
    ]
    """Prompts of the previews; subject similarity and text alignment are measured on them."""
    images: Positive = 2
    """Previews for each prompt."""
    select: Literal["best", "last"] = "best"
    """Which step's weights are kept: the best balance of subject and text, or the last."""
    patience: Positive | None = 2
    """Stop after this many looks without a better one; None never stops early."""
    settled: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Stop once the loss on frozen items varies this little over the last `window` steps, as a share of its variance
    over all (DVAR, Voronov et al., NeurIPS 2023, https://arxiv.org/abs/2302.04841); None never does."""
    window: Annotated[int, Field(gt=1)] = 310


class Sample(Section):
    """How images are generated."""

    steps: Annotated[int, Field(gt=0, le=1000)] = 25
    guidance: Annotated[float, Field(ge=0)] = 7.5
    """Classifier-free guidance scale; 1 switches it off."""
    negative_prompt: str = ""


class Recipe(Section):
    """A method: its paper, its components, and the numbers that the paper gives."""

    title: str
    paper: str | None = None
    year: int | None = None
    modality: Literal["image", "video", "three_d", "protect"] = "image"
    backbone: str = "mini"
    """A name of `recipes/bases`, a Hub id, or a local diffusers folder."""
    components: list[SerializeAsAny[Component]] = []
    phases: list[Phase] = []
    """Stretches of training one after another; empty means one, in which everything learns."""
    data: Data = Data()
    train: Train = Train()
    validation: Validation = Validation()
    sample: Sample = Sample()
    expect: dict[str, str] = {}
    """Measured scores to expect on the embedded base, as `mean ± spread`."""

    def component(self, name: str) -> Component | None:
        """Return the component of that name, or None."""
        return next((part for part in self.components if part.name == name), None)

    def stretches(self) -> list[Phase]:
        """Return the phases, spelled out: a recipe without any has one in which every component learns."""
        if self.phases:
            return self.phases
        rates = {part.name: self.train.learning_rate for part in self.components}
        return [Phase(learn=rates, steps=self.train.steps)]

    def look_every(self) -> int:
        """Steps between two looks."""
        return self.validation.every or max(1, math.ceil(sum(phase.steps for phase in self.stretches()) / LOOKS))

    def dump(self) -> str:
        """Return the whole recipe as YAML with every default spelled out."""
        plain = self.model_dump(mode="json")
        plain["components"] = [{part.name: part.model_dump(mode="json")} for part in self.components]
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def folder() -> Path:
    """The folder of the shipped recipes: inside the installed command line, or at the top of a checkout."""
    root = Path(modalities.__file__).parents[1]
    shipped = root / "pcs_cli" / "recipes"
    return shipped if shipped.is_dir() else root / "recipes"


def available() -> dict[str, Path]:
    """Map the name of every shipped recipe (`image/dreambooth`) to its file."""
    paths = sorted(folder().glob("*/*.yaml"))
    return {f"{path.parent.name}/{path.stem}": path for path in paths if path.parent.name != "bases"}


def find(name: str) -> Path:
    """Return the file of a recipe given by name, by short name (`dreambooth`) or by path.

    Raises:
        PcsError: there is none, or the short name stands for several.
    """
    known = available()
    if name in known:
        return known[name]
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise PcsError(f"{name}: there is no such recipe file.")
        return path
    same = [full for full in known if full.partition("/")[2] == name]
    if len(same) == 1:
        return known[same[0]]
    if same:
        raise PcsError(f'recipe "{name}" could be any of {", ".join(same)}; give one of these.')
    raise PcsError(f'unknown recipe "{name}"; {did_you_mean(name, known)} `pcs recipes list` shows all.')


def load(name: str, changes: dict[str, Any] | None = None, *, backbone: str | None = None) -> Recipe:
    """Read a recipe by name or path, adapt it to the base, apply `changes`, and check all of it.

    A recipe holds what its paper says; its `bases` section holds what differs on a base (by the base's name or
    its family's), which is merged first; how images are made, where it says nothing, is said by the base's own entry.
    Then come `changes`, a nested dictionary as `--set` builds it, in which components are addressed by name; null
    drops one, and the name of one that is not listed adds it.

    Raises:
        PcsError: with one line for every mistake, each with its path in the YAML.
    """
    path = find(name)
    raw = read(path)
    per_base = raw.pop("bases", None) or {}
    for key, given in {"bases": per_base, "sample": raw.get("sample") or {}}.items():
        if not isinstance(given, dict):
            raise PcsError(f"{path}: {key}: is a mapping of keys, not {given!r}.")
    if backbone:
        raw["backbone"] = backbone
    base, mistakes = str(raw.get("backbone", "mini")), list[str]()
    entries = {one.stem: one for one in (folder() / "bases").glob("*.yaml")}
    if base in entries:
        raw["sample"] = read(entries[base]).get("sample", {}) | (raw.get("sample") or {})
    merge(raw, per_base.get(base) or {}, mistakes, may_add=True)
    merge(raw, changes or {}, mistakes)
    return _checked(raw, mistakes, str(path))


def parse(text: str, source: str, changes: dict[str, Any] | None = None) -> Recipe:
    """Read a fully resolved recipe, as `Recipe.dump` wrote it, with `changes` as `load` takes them.

    `source` names it in messages.
    """
    raw, mistakes = plain(text, source), list[str]()
    merge(raw, changes or {}, mistakes)
    return _checked(raw, mistakes, source)


def parse_to_draw(text: str, source: str, changes: dict[str, Any] | None = None) -> Recipe:
    """Read a finished run's recipe as `parse` does, with `changes` for one drawing.

    Raises:
        PcsError: also if a change is of training alone, so that it would do nothing.
    """
    recipe = parse(text, source, changes)
    if not changes:
        return recipe
    had = parse(text, source)
    idle = [key for key in ("phases", "train", "validation") if key in changes]
    idle += [f"data.{key}" for key in changes.get("data") or {} if key != "resolution"]
    idle += [f"components.{part.name}" for part in recipe.components if not (part.draws or had.component(part.name))]
    if idle:
        raise PcsError(f"{source}: {idle[0]} is of training alone; it changes nothing about what a finished run draws.")
    return recipe


def schema_of(modality: str) -> type[Recipe]:
    """The class that recipes of a modality are checked against: its own, where its package has a `recipe.py`."""
    if modality not in get_args(Recipe.model_fields["modality"].annotation):
        return Recipe
    for module in (f"modalities.{modality}.recipe", f"{modality}.recipe"):
        if find_spec(module.rpartition(".")[0]) and find_spec(module):
            found = vars(importlib.import_module(module)).values()
            own = [one for one in found if isinstance(one, type) and issubclass(one, Recipe) and one is not Recipe]
            assert len(own) == 1, f"{module} must define exactly one Recipe, not {own}"
            return own[0]
    return Recipe


def _checked(raw: dict[str, Any], mistakes: list[str], source: str) -> Recipe:
    raw = dict(raw)
    listed = raw.pop("components", None) or []
    if not isinstance(listed, list):
        raise PcsError(f"{source}: components: is a list, one component a line after a dash, not {listed!r}.")
    modality = raw.get("modality", "image")
    parts: list[Component] = []
    for item in listed:
        parts += _component(item, str(modality), mistakes)
    schema = schema_of(str(modality))
    try:
        recipe = schema.model_validate(raw).model_copy(update={"components": parts})
    except ValidationError as error:
        mistakes += explained(error, "", schema)
        raise mistaken(mistakes, source) from None
    names = [part.name for part in parts]
    mistakes += [f"components: {name} is listed twice." for name in sorted({n for n in names if names.count(n) > 1})]
    mistakes += _contradictions(parts)
    # Those with a mistake of their own are there all the same.
    learners = {named(item)[0] for item in listed}
    for number, phase in enumerate(recipe.phases):
        for name in phase.learn:
            if name not in learners:
                mistakes.append(f"phases.{number}.learn.{name}: is not a component; {did_you_mean(name, learners)}")
    if mistakes:
        raise mistaken(mistakes, source)
    return recipe


def _contradictions(parts: list[Component]) -> list[str]:
    doing: dict[str, str] = {}
    found: list[str] = []
    for part in parts:
        if part.exclusive and doing.setdefault(part.exclusive, part.name) != part.name:
            found.append(f"components: {doing[part.exclusive]} and {part.name} both {part.exclusive}; drop one.")
    return found


def _component(item: Any, modality: str, mistakes: list[str]) -> list[Component]:
    name, settings = named(item)
    try:
        face: type[Component] = plugins.load("components", name, Component, modality)
        return [face.model_validate(settings)]
    except PcsError as error:
        mistakes.append(f"components: {error}")
    except ValidationError as error:
        mistakes += explained(error, f"components.{name}.", plugins.load("components", name, Component, modality))
    return []
