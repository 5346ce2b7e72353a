"""Our table of words takes the step of kohya's XTI on the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from modalities.core import bases, recipe
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.step import Batch, denoise
from modalities.core.studio import Studio
from tests import tiny

TOLD = json.loads((Path(__file__).parent / "xti.json").read_text())
# Our layers stand in the order in which the denoiser holds its blocks: down, up, middle.
ORDER = [*range(6), *range(7, 16), 6]


def test_a_step_of_p_plus_is_that_of_kohya(tmp_path: Path) -> None:
    base = tiny.stable_diffusion(tmp_path / "base", layers=16)
    text = {
        "title": "XTI",
        "backbone": str(base),
        "components": [{"token_table": {"init": "{noun}"}}],
        "data": {"subject": "<new>"},
    }
    method = recipe.parse(json.dumps(text), "parity")
    backbone = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    studio = Studio(backbone, Concept("dog", "<new>"), method, training=False, cache=Cache(tmp_path / "cache"))
    table = studio.learned_by("token_table")["table"]
    with torch.no_grad():
        for place, layer in enumerate(ORDER):
            table[0, place] *= 1 + 0.05 * layer
    studio.set_learning(["token_table"])
    backbone.text_encoders["text_encoder"].eval()
    draw = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(2, 4, 16, 16, generator=draw) for _ in range(2))
    assert float(noise.double().sum()) == pytest.approx(TOLD["noise_checksum"])
    prompts = ("a photo of a <new>", "a <new> in the snow")
    nobody = torch.zeros(2, dtype=torch.bool)
    loss = denoise(backbone, Batch(latents, noise, torch.tensor([120, 730]), prompts, (0, 1), nobody)).error.mean()
    assert float(loss.detach()) == pytest.approx(TOLD["loss"], rel=1e-5)
    (table.grad,) = torch.autograd.grad(loss, [table])
    rows = [table.grad[0, ORDER.index(layer), 0] for layer in range(16)]
    assert [float(row.norm()) for row in rows] == pytest.approx(TOLD["gradient_norms"], rel=1e-5)
    for row, told in zip(rows, TOLD["gradient_starts"], strict=True):
        assert row[:4].tolist() == pytest.approx(told, rel=1e-4, abs=1e-5 * float(row.norm()))
    torch.optim.AdamW([table], lr=5e-3, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8).step()
    norms = [float(table.detach()[0, ORDER.index(layer), 0].norm()) for layer in range(16)]
    assert norms == pytest.approx(TOLD["updated_norms"], rel=1e-5)
