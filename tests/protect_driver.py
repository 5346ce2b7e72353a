"""Protects a folder by the tiny base, in a process that kills itself: `python -m tests.protect_driver …`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from modalities.core import recipe
from protect import protect as work
from protect.cloak import Cloak
from protect.recipe import Protection
from tests import driver

METHOD: dict[str, Any] = {
    "title": "everything that has a state",
    "modality": "protect",
    "components": [{"lora": {"rank": 2}}],
    "data": {"subject": "{noun}"},
    "train": {"learning_rate": 1.0e-2},
    "views": {"plain": 0.5, "zoom": 0.7, "jpeg": [80], "noise": 0.02},
    "ascent": {"size": 2.0, "momentum": 0.5, "schedule": "linear", "start": "random", "batch": 2},
    "together": 2,
    "program": [
        {"do": [{"keep": "main"}, {"train": "main", "steps": 2}, {"keep": "main"}]},
        {
            "repeat": 2,
            "do": [
                {"fork": "scratch"},
                {"train": "scratch", "steps": 2},
                {"perturb": "scratch", "steps": 2},
                {"recall": "main"},
                {"joint": "main"},
                {"train": "main", "photos": "protected"},
            ],
        },
    ],
}


def protect(out: Path, base: Path, photos: Path, resume: bool = False) -> dict[str, Any]:
    """Protect `photos` into `out`."""
    made = recipe.parse(json.dumps(METHOD | {"backbone": str(base)}), "test")
    assert isinstance(made, Protection)
    return work.protect(made, photos, out, driver.machine(("", ""), out.parent / "cache"), noun="mug", resume=resume)


if __name__ == "__main__":
    place, base_folder, photo_folder, what, number = sys.argv[1:]
    seen = {"calls": 0}
    owner, name = {"step": (Cloak, "advance"), "state": (work, "write_tensors"), "file": (work, "save")}[what]
    original = getattr(owner, name)

    def dying(*args: Any, **keywords: Any) -> Any:
        result = original(*args, **keywords)
        seen["calls"] += 1
        if seen["calls"] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)
    work.CHECKPOINT_SECONDS = 0.0
    protect(Path(place), Path(base_folder), Path(photo_folder))
