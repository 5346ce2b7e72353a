"""Pictures of two subjects for training, and the attention that they are told apart by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modalities.core import bases
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.errors import PcsError
from modalities.core.studio import Studio
from modalities.core.trainer import Trainer
from tests import driver, tiny

WORDS = {"textual_inversion": {"token": "<new>"}}
SETTINGS: dict[str, Any] = {"data": {"subject": "<new> {noun}", "flip": True}, "phases": [], "train": {"batch": 8}}


def studio_of(base: Path, tmp_path: Path, *components: Any, nouns: tuple[str, ...] = ("dog", "cat")) -> Studio:
    parts = [
        Concept.from_folder(tiny.photos(tmp_path / noun, seed=number), noun=noun, subject="<new> {noun}", number=number)
        for number, noun in enumerate(nouns, start=1)
    ]
    backbone = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    method = driver.method(base, components=[WORDS, *components], **SETTINGS)
    return Studio(backbone, Concept.together(parts), method, training=True, cache=Cache(tmp_path / "cache"))


def test_mixed_items_show_the_middles_of_two_subjects_and_name_them_in_order(base: Path, tmp_path: Path) -> None:
    studio = studio_of(base, tmp_path, {"cut_mix": {"prompts": ["a {1} left, a {2} right"]}})
    part: Any = studio.components[1]
    part._photos = replace(part._photos, std=torch.zeros_like(part._photos.std))
    photos = part._photos.sample(torch.zeros_like(part._photos.mean))
    batch, plain = (Trainer(one).batch() for one in (studio, studio_of(base, tmp_path / "plain")))
    names, mixed = ["<new> dog"] * 6 + ["<new-2> cat"] * 6, 0
    for row, position in enumerate(batch.positions):
        pair = part.pair(position)
        if pair is None:
            assert batch.prompts[row] == plain.prompts[row]
            continue
        mixed += 1
        left, right = pair
        assert names[left] != names[right]
        assert studio.view_at(position) in pair
        assert batch.prompts[row] == f"a {names[left]} left, a {names[right]} right"
        half = photos.shape[-1] // 2
        shown = torch.cat([photos[view][..., half // 2 : half // 2 + half] for view in pair], -1)
        assert torch.allclose(batch.latents[row], shown, atol=1e-6)
    assert 0 < mixed < 8
    assert torch.equal(batch.noise, plain.noise)
    assert torch.equal(batch.t, plain.t)


def test_both_orders_and_all_photos_come(base: Path, tmp_path: Path) -> None:
    part: Any = studio_of(base, tmp_path, "cut_mix").components[1]
    pairs = [pair for pair in map(part.pair, range(3000)) if pair]
    assert len(pairs) / 3000 == pytest.approx(0.6, abs=10 / 300)
    assert {view for pair in pairs for view in pair} == set(range(12))
    assert 0.35 < sum(left < right for left, right in pairs) / len(pairs) < 0.65


def test_the_classes_of_both_are_preserved_on_the_same_picture(base: Path, tmp_path: Path) -> None:
    parts = [{"cut_mix": {"share": 1.0, "prompts": ["a {1} left, a {2} right"]}}, {"prior_preservation": {}}]
    batch = Trainer(studio_of(base, tmp_path, *parts)).batch()
    assert set(batch.prompts[8:]) == {"a dog left, a cat right", "a cat left, a dog right"}
    assert torch.equal(batch.latents[:8], batch.latents[8:])


def test_unmixing_takes_each_words_attention_out_of_the_others_half(base: Path, tmp_path: Path) -> None:
    studio = studio_of(base, tmp_path, {"cut_mix": {"share": 1.0, "unmix": 1.0}})
    studio.set_learning(["textual_inversion"])
    seen = driver.losses_of(studio, studio.components[1], Trainer(studio).batch)
    assert seen[-1] < 0.9 * seen[0]


def test_one_subject_and_words_of_single_photos_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(PcsError, match=r"cut_mix: mixes several subjects.*--noun of two"):
        studio_of(base, tmp_path, "cut_mix", nouns=("dog",))
    with pytest.raises(PcsError, match="where masked_loss would take one"):
        studio_of(base, tmp_path, "cut_mix", {"masked_loss": {"masks": "attention"}})
    with pytest.raises(PcsError, match=r'prompts\.0: needs the slots "\{1\}"'):
        driver.method(base, components=[{"cut_mix": {"prompts": ["a {1} alone"]}}])
