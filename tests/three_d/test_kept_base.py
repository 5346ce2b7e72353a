"""One base for all stages: whatever a recipe puts into it is gone when the next stage asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modalities.core import bases
from modalities.core.backbone import Backbone
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.kept_base import KeptBase
from modalities.core.machine import Machine
from modalities.core.studio import Studio
from modalities.core.trainer import Trainer
from tests import driver
from tests.three_d.test_command import Pcs, method  # noqa: F401

CHANGES = {
    "adapters and words": ({"textual_inversion": {"token": "<new>"}}, {"lora": {"rank": 2, "text_encoder": 2}}),
    "rotations": ({"oft": {"block": 4, "layers": "attention"}},),
    "singular values": ({"spectral_shifts": {"layers": "attention"}},),
    "words by layer and time": ({"token_mapper": {"token": "<new>"}},),
}


def answer(backbone: Backbone) -> list[torch.Tensor]:
    """What a base sees in fixed noise, and what it makes of two prompts."""
    words = backbone.conditioning(["a photo of a dog", "a <new> dog"])
    latents = backbone.encode(torch.full((2, 3, backbone.resolution, backbone.resolution), 0.3)).mean
    t = backbone.schedule.timesteps(torch.tensor([0.3, 0.7]))
    with torch.no_grad():
        return [backbone.predict(latents, t, words), latents]


def learn(machine: Machine, base: Path, photos: Path, *components: Any) -> None:
    names = [next(iter(one)) for one in components]
    phases = [{"learn": dict.fromkeys(names, 0.05), "steps": 2}]
    chosen = driver.method(base, components=list(components), phases=phases, data={"subject": "<new>"})
    concept = Concept.from_folder(photos, noun="dog", subject="<new>")
    backbone = machine.backbone(str(base), "image")
    before = answer(backbone)[0]
    trainer = Trainer(Studio(backbone, concept, chosen, training=True, cache=machine.cache))
    for _ in range(2):
        trainer.advance()
    backbone.forget_text()
    assert not torch.equal(answer(backbone)[0], before), "it did learn something"


@pytest.mark.parametrize("what", CHANGES)
def test_a_kept_base_is_bare_again_without_being_loaded(
    what: str, base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = answer(bases.load(bases.resolve(str(base)), choose("cpu")))
    machine = Machine(choose("cpu"), Cache(tmp_path / "cache"), offline=True, kept=KeptBase())
    first = machine.backbone(str(base), "image")
    with monkeypatch.context() as patch:
        patch.setattr(bases, "load", None)
        learn(machine, base, photos, *CHANGES[what])
        again = machine.backbone(str(base), "image")
        assert again is first
        assert all(map(torch.equal, answer(again), fresh))
        assert not any(weight.requires_grad for part in again.modules().values() for weight in part.parameters())
        learn(machine, base, photos, *CHANGES[what])


def test_a_base_whose_own_weights_were_trained_is_loaded_again(base: Path, photos: Path, tmp_path: Path) -> None:
    fresh = answer(bases.load(bases.resolve(str(base)), choose("cpu")))
    machine = Machine(choose("cpu"), Cache(tmp_path / "cache"), offline=True, kept=KeptBase())
    first = machine.backbone(str(base), "image")
    learn(machine, base, photos, {"full_finetune": {}})
    again = machine.backbone(str(base), "image")
    assert again is not first
    assert all(map(torch.equal, answer(again), fresh))


@pytest.mark.slow
def test_all_stages_share_one_base(
    pcs: Pcs,
    method: Path,  # noqa: F811
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded, real = [], bases.load

    def counted(*given: Any, **more: Any) -> Backbone:
        loaded.append(given)
        return real(*given, **more)

    monkeypatch.setattr(bases, "load", counted)
    made = pcs("3d", "dreambooth3d", photos, "--noun", "dog", "-r", method, "-o", "out", "--json")
    assert made.code == 0, made.err
    # The second is the one that the finished scene is drawn with.
    assert len(loaded) <= 2
    weights = [(tmp_path / "out" / name / "weights.safetensors").read_bytes() for name in ("03_full", "06_scene")]
    monkeypatch.setattr(KeptBase, "bare", lambda _, name, load: load())
    assert pcs("3d", "dreambooth3d", photos, "--noun", "dog", "-r", method, "-o", "other", "--json").code == 0
    again = [(tmp_path / "other" / name / "weights.safetensors").read_bytes() for name in ("03_full", "06_scene")]
    assert again == weights, "and what they learn is what they learn on a base of their own"
