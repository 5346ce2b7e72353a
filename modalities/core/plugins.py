"""Finds parts by file name: the folder is the registry. `{lora: …}` is `components/lora.py`, nothing else to edit.

A part of a kind (`components`, `backbones`, `metrics`) is one class in one file; the nearest modality is looked
at first, then the core.
"""

import importlib
import inspect
from pathlib import Path
from typing import TypeVar

import modalities
from modalities.core.errors import PcsError, did_you_mean

ROOT = Path(modalities.__file__).parent
Part = TypeVar("Part")


def names(kind: str, modality: str | None = None) -> dict[str, str]:
    """Map every part of `kind` to its module, reading only the folders; nothing is imported.

    Args:
        kind: "components", "backbones" or "metrics".
        modality: look in this modality and the core; `None` looks in all of them.
    """
    houses = [modality] if modality else sorted(p.name for p in ROOT.iterdir() if p.name != "core")
    found: dict[str, str] = {}
    for house in [*houses, "core"]:
        for path in sorted((ROOT / house / kind).glob("[!_]*.py")):
            found.setdefault(path.stem, f"modalities.{house}.{kind}.{path.stem}")
    return found


def load(kind: str, name: str, face: type[Part], modality: str | None = None) -> type[Part]:
    """Import the class of face `face` that the file `name` of `kind` defines.

    Raises:
        PcsError: there is no such part.
    """
    known = names(kind, modality)
    if name not in known:
        raise PcsError(f'unknown {kind.removesuffix("s")} "{name}"; {did_you_mean(name, known)}')
    module = importlib.import_module(known[name])
    defined = [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, face)
        and member.__module__ == module.__name__
        and not inspect.isabstract(member)
        and not member.__name__.startswith("_")
    ]
    assert len(defined) == 1, f"{module.__name__} must define exactly one {face.__name__}, not {defined}"
    return defined[0]
