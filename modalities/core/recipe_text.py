"""Recipes as text: YAML in which 1e-4 is a number, and changes that are merged into it before it is checked."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

from modalities.core import plugins
from modalities.core.errors import PcsError, did_you_mean


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that 1e-4 is a number, as everybody who writes learning rates expects."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf)$|^\.(nan|NaN)$"),
    list("-+0123456789."),
)


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        PcsError: it cannot be read, or holds something else.
    """
    try:
        return plain(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PcsError(f"{path}: cannot be read as text ({error}).") from error


def plain(text: str, source: str) -> dict[str, Any]:
    """The mapping in a YAML text; `source` names it in messages.

    Raises:
        PcsError: it holds something else.
    """
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise PcsError(f"{source}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise PcsError(f"{source}: a recipe is a mapping of keys; see `pcs recipes show dreambooth_lora`.")
    return raw


def merge(onto: dict[str, Any], patch: dict[str, Any], mistakes: list[str], *, may_add: bool = False) -> None:
    """Merge `patch` into `onto`, dictionaries key by key, and `components` by component name.

    What a recipe's own `bases` section adds comes last, as it `may_add` in this order; what a user adds comes first,
    where it sees a step's batch before other components add to it.
    """
    for key, value in patch.items():
        here = onto.get(key)
        if isinstance(here, dict) and isinstance(value, dict):
            merge(here, value, mistakes)
        elif key == "components" and isinstance(here, list) and isinstance(value, dict):
            known = list(plugins.names("components", str(onto.get("modality", "image"))))
            onto[key] = _merge_components(here, value, known, mistakes, may_add)
        else:
            onto[key] = copy.deepcopy(value)


def named(item: Any) -> tuple[str, dict[str, Any]]:
    """Split `lora` or `{lora: {rank: 4}}` into name and settings."""
    if isinstance(item, dict) and len(item) == 1:
        name, settings = next(iter(item.items()))
        if isinstance(settings, dict | None):
            return str(name), dict(settings or {})
        raise PcsError(f"components.{name}: takes settings, {{{name}: {{key: value}}}}, not {settings!r}.")
    return str(item), {}


def parse_change(text: str) -> dict[str, Any]:
    """Turn one `--set` argument, `train.steps=200`, into `{"train": {"steps": 200}}`; the value is YAML.

    Raises:
        PcsError: it has no `=` or an empty key.
    """
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise PcsError(f'--set {text}: give KEY=VALUE, for example "train.steps=200".')
    try:
        change: Any = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError:
        change = value
    for key in reversed(keys):
        change = {key: change}
    return change


def changes_of(settings: list[str]) -> dict[str, Any]:
    """Merge several `--set` arguments, the later over the earlier."""
    merged: dict[str, Any] = {}
    for setting in settings:
        merge(merged, parse_change(setting), [])
    return merged


def _merge_components(
    listed: list[Any], patch: dict[str, Any], known: list[str], mistakes: list[str], may_add: bool
) -> list[Any]:
    """Change the settings of listed components; one that is set to null is dropped."""
    by_name: dict[str, Any] = {}
    for item in listed:
        name, settings = named(item)
        by_name[name] = settings
    for name, settings in patch.items():
        if settings is not None and not isinstance(settings, dict):
            mistakes.append(f"components.{name}: takes settings, {name}.KEY=VALUE or {{}}, not {settings!r}.")
        elif name not in by_name and may_add:
            by_name[name] = settings
        elif name not in by_name and settings is not None and name in known:
            by_name = {name: settings} | by_name
        elif name not in by_name:
            mistakes.append(
                f"components.{name}: the recipe has no such component; {did_you_mean(name, [*by_name, *known])}"
            )
        elif settings is None:
            del by_name[name]
        else:
            merge(by_name[name], settings, mistakes)
    return [{name: settings} for name, settings in by_name.items()]
