"""On a GPU: frozen weights in half precision, what learns in single, and a run that opens anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modalities.core import generate, personalize
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.machine import Machine
from tests import driver, tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_a_run_trains_on_cuda_and_generates_on_the_cpu(family: str, encoders: tuple[str, str], tmp_path: Path) -> None:
    base = (tiny.stable_diffusion if family == "sd" else tiny.stable_diffusion_3)(tmp_path / "base")
    recipe = driver.method(
        base,
        components=[{"lora": {"rank": 4, "text_encoder": 2}}, {"prior_preservation": {}}],
        phases=[],
        data={"subject": "sks {noun}"},
        train={"steps": 6, "learning_rate": 0.01, "batch": 2},
    )
    concept = Concept.from_folder(tiny.photos(tmp_path / "photos"), noun="dog", subject="sks {noun}")
    machine = Machine(choose("cuda"), Cache(tmp_path / "cache"), True, *encoders)
    run = personalize.personalize(recipe, concept, tmp_path / "run", machine)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in run.weights().values())
    studio = run.studio(driver.machine(encoders, tmp_path / "cache"))
    assert generate.of_studio(studio, "a sks dog", seed=0, index=0).size == (32, 32)
