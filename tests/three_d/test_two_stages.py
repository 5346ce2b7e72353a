"""MVDream's DreamBooth: one DreamBooth that is kept near the base, then one scene."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.errors import PcsError
from modalities.core.machine import Machine
from modalities.core.studio import Studio
from modalities.core.trainer import Trainer
from tests import driver
from tests.three_d.test_command import Pcs, method  # noqa: F401


def trained(base: Path, photos: Path, cache: Path, weight: float, of: str = "full_finetune") -> tuple[Studio, float]:
    """Six steps, and how far the weights are from the base's in the mean."""
    components = [{"full_finetune": {}}, {"parameter_preservation": {"weight": weight, "of": of}}]
    phases = [{"learn": {"full_finetune": 1e-3}, "steps": 6}]
    chosen = driver.method(base, components=components, phases=phases, data={"subject": "sks dog"})
    concept = Concept.from_folder(photos, noun="dog", subject="sks dog")
    machine = Machine(choose("cpu"), Cache(cache), offline=True)
    studio = Studio(machine.backbone(str(base)), concept, chosen, training=True, cache=machine.cache)
    trainer = Trainer(studio)
    for _ in range(6):
        trainer.advance()
    pairs = list(studio.changes("full_finetune"))
    apart = sum(float((now - before).detach().abs().sum()) for now, before in pairs)
    return studio, apart / sum(now.numel() for now, _ in pairs)


def test_a_penalty_on_changes_keeps_weights_near_the_base(base: Path, photos: Path, tmp_path: Path) -> None:
    studio, free = trained(base, photos, tmp_path / "cache", 0.0)
    held, near = trained(base, photos, tmp_path / "cache", 1e4)
    assert 0 < near < 0.8 * free
    part = next(one for one in held.components if one.name == "parameter_preservation")
    loss = part.loss(None, None)  # pyright: ignore[reportArgumentType]
    assert loss is not None
    assert float(loss.detach()) == pytest.approx(1e4 * near, rel=1e-4)
    with pytest.raises(PcsError, match='no component "lora" that learns'):
        trained(base, photos, tmp_path / "cache", 1.0, of="lora")
    assert torch.isfinite(next(iter(studio.weights().values()))).all()


def test_two_stages_end_with_the_first_scene(
    pcs: Pcs,
    method: Path,  # noqa: F811
    photos: Path,
    tmp_path: Path,
) -> None:
    whole = json.loads(method.read_text())
    whole["components"][0]["dreambooth"] |= {"full": 0, "components": {"parameter_preservation": {"of": "lora"}}}
    method.write_text(json.dumps(whole), encoding="utf-8")
    words = ("3d", "dreambooth3d", photos, "--noun", "dog", "-r", method, "-o", "out")
    told = pcs(*words, "--dry-run")
    assert "02_scene" in told.err
    assert "03_full" not in told.err
    made = pcs(*words, "--json")
    assert made.code == 0, made.err
    assert list(made.json["stages"]) == ["01_partial", "02_scene"]
    assert "parameter_preservation" in (tmp_path / "out" / "01_partial" / "recipe.yaml").read_text()
    turned = pcs("3d", "render", "out", "-n", 2, "--size", 16, "-o", "small")
    assert turned.code == 0, turned.err


def test_a_second_word_learns_the_shape_while_the_first_stands_still(
    pcs: Pcs,
    method: Path,  # noqa: F811
    photos: Path,
    tmp_path: Path,
) -> None:
    image = json.loads((tmp_path / "image.yaml").read_text())
    words = image | {"components": [{"textual_inversion": {"vectors": 2}}], "data": {"subject": "<new>"}}
    (tmp_path / "image.yaml").write_text(json.dumps(words), encoding="utf-8")
    whole = json.loads(method.read_text())
    whole["components"][0]["dreambooth"] |= {"geometry": 2}
    method.write_text(json.dumps(whole), encoding="utf-8")
    made = pcs("3d", "dreambooth3d", photos, "--noun", "dog", "-r", method, "-o", "out", "--json")
    assert made.code == 0, made.err
    first, both = (Artifact(tmp_path / "out" / name).weights() for name in ("01_partial", "05_multiview"))
    name = "textual_inversion.text_encoder"
    assert torch.equal(first[name], both[name])
    assert both["geometric_token.text_encoder"].shape[0] == 2
    words_of = [Artifact(tmp_path / "out" / one).about()["phrase"] for one in ("02_scene", "05_multiview", "06_scene")]
    assert words_of == ["<new>", "<new> <shape>", "<new> <shape>"]
    tokens = sorted(path.name for path in (tmp_path / "out" / "05_multiview" / "portable").iterdir())
    assert len(tokens) == 2, "a file for each word"
