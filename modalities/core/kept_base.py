"""One base in memory for several pieces of work, one after the other: each finds it as it was loaded.

Components put adapters, hooks, words and whole layers into a base. All of that hangs on attributes of its modules, so
putting back what these were takes it all away; only weights that were themselves changed must be loaded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from modalities.core.backbone import Backbone

CONTAINERS = (dict, list, set)


class KeptBase:
    """Holds the last base that was asked for."""

    def __init__(self) -> None:
        self._name: object = None
        self._kept: _AsLoaded | None = None

    def bare(self, name: object, load: Callable[[], Backbone]) -> Backbone:
        """The base `name` as `load` gives it; the one that is held if there is one, without what was put into it.

        Whatever worked on it before must not be used any more.
        """
        held = self._kept.restored() if self._kept and self._name == name else None
        if held is None:
            # Before loading, so that two bases never share the memory.
            self._kept = None
            self._name, self._kept = name, _AsLoaded(load())
            held = self._kept.restored()
            assert held is not None
        return held


class _AsLoaded:
    """What a base's objects were when it was loaded; its weights are known by their sums, not copied."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._objects = [(one, type(one), _copied(vars(one))) for one in _objects(backbone)]
        tokenizers: dict[str, Any] = backbone.pipeline().components
        self._tokenizers = {name: deepcopy(one) for name, one in tokenizers.items() if "tokenizer" in name}
        self._sums = _sums(backbone)

    def restored(self) -> Backbone | None:
        """The base, bare again; None if its own weights are not what they were."""
        backbone = self._backbone
        for one, kind, attributes in self._objects:
            one.__class__ = kind
            vars(one).clear()
            vars(one).update(_copied(attributes))
        for name, tokenizer in self._tokenizers.items():
            setattr(backbone.pipeline(), name, deepcopy(tokenizer))
        for module in backbone.modules().values():
            module.requires_grad_(False).eval()
        return backbone if _sums(backbone) == self._sums else None


def _objects(backbone: Backbone) -> Iterator[Any]:
    yield backbone
    yield backbone.pipeline()
    for module in backbone.modules().values():
        yield from module.modules()


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: copy(value) if isinstance(value, CONTAINERS) else value for name, value in attributes.items()}


def _sums(backbone: Backbone) -> list[int]:
    """The sum of the bits of every weight, which any training changes."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return [
        int(weight.detach().contiguous().view(whole[weight.element_size()]).sum(dtype=torch.int64))
        for module in backbone.modules().values()
        for weight in module.parameters()
    ]
