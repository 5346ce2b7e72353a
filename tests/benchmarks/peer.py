"""Runs a diffusers example script as its users do, in a process of its own, and notes when each step ended.

`python -m tests.benchmarks.peer SCRIPT TIMES.json FLAGS…`. The scripts need five transforms of torchvision; where it
is not installed, the stand-ins below take their place (Pillow does the work in either).
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import random
import runpy
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.time()


class Resize:
    def __init__(self, side: int, interpolation: Any = None) -> None:
        self.side = side

    def __call__(self, image: Any) -> Any:
        width, height = image.size
        short, long = sorted(image.size)
        other = int(self.side * long / short)
        return image.resize((self.side, other) if width <= height else (other, self.side), 1)


class CenterCrop:
    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Any) -> Any:
        left, top = round((image.width - self.side) / 2), round((image.height - self.side) / 2)
        return image.crop((left, top, left + self.side, top + self.side))


class RandomCrop(CenterCrop):
    def __call__(self, image: Any) -> Any:
        left, top = (random.randint(0, extent - self.side) for extent in image.size)
        return image.crop((left, top, left + self.side, top + self.side))


class ToTensor:
    def __call__(self, image: Any) -> Any:
        import numpy as np
        import torch

        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)


class Normalize:
    def __init__(self, mean: list[float], deviation: list[float]) -> None:
        self.mean, self.deviation = mean[0], deviation[0]

    def __call__(self, pixels: Any) -> Any:
        return (pixels - self.mean) / self.deviation


class Compose:
    def __init__(self, parts: list[Callable[[Any], Any]]) -> None:
        self.parts = parts

    def __call__(self, value: Any) -> Any:
        for part in self.parts:
            value = part(value)
        return value


def _stand_in() -> None:
    if importlib.util.find_spec("torchvision"):
        return
    # The libraries must make up their minds before the stand-in appears.
    import diffusers
    import transformers

    assert diffusers
    assert transformers
    package, transforms = types.ModuleType("torchvision"), types.ModuleType("torchvision.transforms")
    for module in (package, transforms):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None, is_package=True)
        sys.modules[module.__name__] = module
    transforms.InterpolationMode = types.SimpleNamespace(BILINEAR=2, LANCZOS=1)  # type: ignore[attr-defined]
    for part in (Resize, CenterCrop, RandomCrop, ToTensor, Normalize, Compose):
        setattr(transforms, part.__name__, part)
    package.transforms = transforms  # type: ignore[attr-defined]


def main() -> None:
    script, times, *flags = sys.argv[1:]
    os.environ["HF_HUB_OFFLINE"] = "1"
    _stand_in()
    import accelerate

    ended: list[float] = []
    accelerate.Accelerator.log = lambda *_, **__: ended.append(time.time())  # type: ignore[method-assign]
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")
    Path(times).write_text(json.dumps({"started": STARTED, "steps": ended, "ended": time.time()}))


if __name__ == "__main__":
    main()
