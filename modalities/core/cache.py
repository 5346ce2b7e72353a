"""Frozen results kept between runs, keyed by content: nothing in here is ever the only copy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from modalities.core.files import replacing

if TYPE_CHECKING:
    from torch import Tensor


class Cache:
    """A folder of results; deleting it costs time, never correctness."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str, key: tuple[object, ...]) -> Path:
        """The place for the result of `key`."""
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
        return self.root / kind / digest

    def remember(
        self, kind: str, key: tuple[object, ...], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the tensors that `compute` makes, from disk when they have been made before."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file, save_file

        path = self.folder(kind, key).with_suffix(".safetensors")
        if path.is_file():
            try:
                return load_file(path)
            except (SafetensorError, OSError):
                path.unlink(missing_ok=True)
        made = compute()
        with replacing(path) as temporary:
            save_file(made, temporary)
        return made
