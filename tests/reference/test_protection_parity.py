"""Our ascent on the denoising loss is that of Anti-DreamBooth's own function, when fed the same draws.

The numbers were recorded from its code in float32, outside this tree; anti_dreambooth.json says how.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modalities.core import bases, media
from modalities.core.backbone import Posterior
from modalities.core.device import choose
from protect import budget
from protect.gradient import Question, of_pixels
from protect.recipe import Term
from tests import tiny

RECORDED = json.loads((Path(__file__).parent / "anti_dreambooth.json").read_text())
STEP, LEVELS = 0.6375, 6.375


def bits(text: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))[:count].astype(bool)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_step_is_that_of_anti_dreambooth(kind: str, tmp_path: Path) -> None:
    expected: dict[str, Any] = RECORDED["runs"][kind]
    folder = tiny.stable_diffusion(tmp_path / "sd", prediction_type=kind)
    backbone = bases.load(bases.resolve(str(folder)), choose("cpu"), offline=True)
    paths = sorted(tiny.photos(tmp_path / "photos", count=2).glob("*.png"))
    levels = torch.stack([media.square(media.read_photo(path).open(), 32) for path in paths]) * 255
    delta, losses = torch.zeros_like(levels), list[float]()
    # randn_like draws in the order of memory, and the encoder's answer lies with its channels last.
    like = backbone.encode(levels / 255).mean.detach()
    shape = like.shape
    unused = Posterior(torch.zeros(shape), torch.zeros(shape), 0.0, 1.0)
    reach = torch.full_like(levels[0, :1], LEVELS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number in range(len(expected["losses"])):
            normal, noise = torch.randn(shape), torch.randn_like(like)
            t = torch.randint(0, backbone.schedule.length, (len(levels),))
            question = Question(unused, unused, normal, noise, t, ("a photo of sks person",) * 2, "sks")
            gradient, step = of_pixels(backbone, [Term(term="denoise")], "full", (levels + delta) / 255, question)
            assert step is not None
            losses.append(float(step.error.mean()))
            if number == 0:
                moved = bits(expected["moved"], gradient.numel())
                agree = (gradient.numpy().ravel() > 0) == bits(expected["signs"], gradient.numel())
                assert moved.mean() > 0.9
                assert agree[moved].mean() >= 0.999
                assert losses[0] == pytest.approx(expected["losses"][0], rel=1e-6)
            wanted = delta + STEP * gradient.sign()
            delta = torch.stack([budget.kept(one, reach, own) for one, own in zip(wanted, levels, strict=True)])
    assert losses == pytest.approx(expected["losses"], rel=1e-4)
    ours = torch.stack([budget.whole(one, reach) for one in delta]).numpy()
    theirs = np.frombuffer(zlib.decompress(base64.b64decode(expected["delta"])), np.int8).reshape(ours.shape)
    assert np.abs(ours).max() == expected["largest"] == 6
    assert (ours == theirs).mean() >= 0.999
