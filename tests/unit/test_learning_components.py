"""What components that mask, move, steer and hold promise while they learn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from modalities.core import bases
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.errors import PcsError
from modalities.core.step import denoise
from modalities.core.studio import Studio
from modalities.core.subject_mask import masks, otsu, places_of
from modalities.core.trainer import Trainer
from modalities.mini.world import Camera, Scene, Subject, render
from tests import driver, tiny

LOOK = {"every": 1000, "prompts": ["a photo of {}"], "images": 1, "select": "last"}
WORD = {"textual_inversion": {"token": "<new>"}}


def studio_of(
    base: Path | str, tmp_path: Path, photos: Path, *components: Any, noun: str = "dog", **changes: Any
) -> Studio:
    data = {"subject": "<new>", "flip": True}
    recipe = driver.method(Path(base), **({"components": list(components), "data": data, "phases": []} | changes))
    concept = Concept.from_folder(photos, noun=noun, subject="<new>")
    backbone = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    return Studio(backbone, concept, recipe, training=True, cache=Cache(tmp_path / "cache"))


def train(tmp_path: Path, base: Path, encoders: tuple[str, str], *components: Any, **changes: Any) -> Artifact:
    settings: dict[str, Any] = {"data": {"subject": "<new>"}, "phases": [], "validation": LOOK, "sample": {"steps": 1}}
    settings |= {"components": [WORD, *components], "train": {"steps": 12, "learning_rate": 0.02}} | changes
    return driver.train(tmp_path / "run", base, tiny.photos(tmp_path / "photos"), encoders, **settings)


def left_half(photos: Path, folder: Path) -> Path:
    """Masks that are white on the left half."""
    folder.mkdir()
    for path in sorted(photos.iterdir()):
        size = Image.open(path).size
        mask = Image.new("L", size, 0)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        mask.save(folder / path.name)
    return folder


def batch_of(studio: Studio, step: int = 0) -> Any:
    trainer = Trainer(studio)
    trainer.step = step
    return trainer.batch()


def test_the_base_finds_its_classes_in_photos_of_the_world(tmp_path: Path) -> None:
    folder, truth = tmp_path / "photos", list[torch.Tensor]()
    folder.mkdir()
    for number, context in enumerate(("table", "street", "forest")):
        picture = render(Scene(Subject.random(3, "mug"), context, Camera(-60 + 50 * number, 15)), 128)
        Image.fromarray(picture.image).save(folder / f"{number}.png")
        truth.append(torch.from_numpy(picture.mask > 127).float())
    studio = studio_of("mini", tmp_path, folder, WORD, noun="mug", data={"subject": "<new>"})
    for found, mask in zip(masks(studio, "attention"), truth, strict=True):
        own = torch.nn.functional.interpolate(found[None], size=128)[0, 0]
        assert float((own * mask).sum() / (own + mask).clamp(max=1).sum()) > 0.6


def test_subjects_of_one_photo_have_masks_of_their_own(base: Path, tmp_path: Path) -> None:
    photo = tiny.photos(tmp_path / "photos", 1)
    both = Concept.together(
        [Concept.from_folder(photo, noun=noun, subject="<new>", number=k) for k, noun in enumerate(("dog", "cat"), 1)]
    )
    recipe = driver.method(base, components=[WORD], data={"subject": "<new>"}, phases=[])
    backbone = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    studio = Studio(backbone, both, recipe, training=True, cache=Cache(tmp_path / "cache"))
    first, second = masks(studio, "attention")
    assert first.any()
    assert second.any()
    assert not torch.equal(first, second)


def test_otsu_parts_two_heaps() -> None:
    values = torch.cat([torch.linspace(0, 0.2, 40), torch.linspace(0.7, 0.9, 20)])
    assert 0.2 < otsu(values) < 0.7


def test_words_are_found_in_a_prompt(base: Path) -> None:
    backbone = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    assert places_of(backbone, "a photo of a dog", "dog") == [5]
    assert places_of(backbone, "a red dog on a red mug", "red") == [2, 6]
    assert places_of(backbone, "a photo of a dog", "cat") == []


def test_localisation_draws_the_words_attention_to_the_mask(base: Path, tmp_path: Path, photos: Path) -> None:
    folder = left_half(photos, tmp_path / "masks")
    studio = studio_of(base, tmp_path, photos, WORD, {"attention_localisation": {"masks": str(folder), "weight": 1.0}})
    studio.set_learning(["textual_inversion"])
    seen = driver.losses_of(studio, studio.components[1], lambda: batch_of(studio))
    assert seen[-1] < 0.9 * seen[0]


def test_the_context_keeps_what_the_class_makes_of_it(base: Path, encoders: tuple[str, str], tmp_path: Path) -> None:
    moved = []
    for name, weight in (("free", 0.0), ("held", 30.0)):
        run = train(tmp_path / name, base, encoders, {"context_regulariser": {"weight": weight}})
        studio = run.studio(driver.machine(encoders, tmp_path / "cache"))
        with torch.no_grad():
            ours, theirs = (
                studio.backbone.embed([text]).tensors["encoder_hidden_states"][0]
                for text in ("a photo of a <new> in the snow", "a photo of a dog in the snow")
            )
        moved.append(float((ours - theirs)[6:9].norm()))
    assert moved[1] < 0.7 * moved[0]


def test_steering_brings_a_word_to_its_likes(base: Path, encoders: tuple[str, str], tmp_path: Path) -> None:
    component = {"contrastive_steering": {"positives": ["in", "on"], "negatives": ["dog", "car"], "weight": 10.0}}
    studio = studio_of(base, tmp_path, tiny.photos(tmp_path / "seen"), WORD, component)
    table = studio.backbone.text_encoders["text_encoder"].get_input_embeddings().weight
    tokenizer = studio.backbone.tokenizers["text_encoder"]
    near, far = (
        torch.nn.functional.normalize(
            table[[tokenizer(word, add_special_tokens=False).input_ids[0] for word in words]], dim=-1
        )
        for words in (("in", "on"), ("dog", "car"))
    )
    row = studio.learned_by("textual_inversion")["text_encoder"].detach()
    unit = torch.nn.functional.normalize(row, dim=-1)
    likes, unlikes = ((unit @ one.T / 0.07).exp().sum() for one in (near, far))
    batch = batch_of(studio)
    loss = studio.components[1].loss(denoise(studio.backbone, batch), batch)
    assert float(loss.detach()) == pytest.approx(-10 * math.log(likes / (likes + unlikes)), rel=1e-4)
    run = train(tmp_path, base, encoders, component)
    learned = torch.nn.functional.normalize(run.weights()["textual_inversion.text_encoder"], dim=-1)
    assert float((learned @ near.T).mean()) > float((unit @ near.T).mean())
    assert float((learned @ far.T).mean()) < float((unit @ far.T).mean())


def test_small_photos_are_said_to_be_far_and_count_only_where_they_are(
    base: Path, tmp_path: Path, photos: Path
) -> None:
    always = {"geometric_augmentation": {"share": 1.0, "smaller": 1.0, "smallest": 0.3, "count": 12}}
    batch = batch_of(studio_of(base, tmp_path, photos, WORD, always, train={"batch": 6}))
    assert batch.weight is not None
    assert all(float(one.mean()) == pytest.approx(1, abs=1e-4) for one in batch.weight)
    areas = [float((one[0] > 0).float().mean()) for one in batch.weight]
    assert max(areas) <= 1
    assert min(areas) < 0.5
    for prompt, area in zip(batch.prompts, areas, strict=True):
        is_far = prompt.endswith((", far away", ", very small"))
        assert is_far == (area < 0.36) or 0.25 < area < 0.36
    large = {"geometric_augmentation": {"share": 1.0, "smaller": 0.0, "count": 6}}
    batch = batch_of(studio_of(base, tmp_path, photos, WORD, large, train={"batch": 4}))
    assert all(prompt.endswith((", zoomed in", ", close up")) for prompt in batch.prompts)
    assert torch.equal(batch.weight, torch.ones_like(batch.weight))


def test_moved_photos_and_masks_exclude_each_other(base: Path, tmp_path: Path, photos: Path) -> None:
    with pytest.raises(PcsError, match="masks of masked_loss"):
        studio_of(base, tmp_path, photos, WORD, "geometric_augmentation", {"masked_loss": {"masks": "attention"}})


def test_the_start_token_takes_no_gradient(base: Path, tmp_path: Path, photos: Path) -> None:
    kv = {"full_finetune": {"layers": "cross_attention.kv"}}
    gradients = []
    for more in ([], ["held_start_token"]):
        studio = studio_of(base, tmp_path, photos, WORD, kv, *more)
        studio.set_learning(["full_finetune"])
        given = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
        layer: Any = next(m for n, m in studio.backbone.denoiser.named_modules() if n.endswith("attn2.to_k"))
        answer = layer(given)
        first, rest = (
            torch.autograd.grad(part.sum(), layer.weight, retain_graph=True)[0].abs().sum()
            for part in (answer[:, :1], answer[:, 1:])
        )
        assert rest > 0
        gradients.append(bool(first > 0))
    assert gradients == [True, False]


def test_dvar_stops_when_the_loss_on_frozen_items_has_settled(
    base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    stopping = LOOK | {"settled": 0.3, "window": 10}
    settings = {"steps": 120, "learning_rate": 0.1, "schedule": "linear"}
    run = train(tmp_path, base, encoders, validation=stopping, train=settings)
    lines = [line for line in run.metrics() if "frozen_loss" in line]
    steps = run.about()["steps"]
    assert 10 <= steps < 120
    losses = torch.tensor([line["frozen_loss"] for line in lines], dtype=torch.float64)
    assert losses[-10:].var() < 0.3 * losses.var()
    assert not any(losses[max(0, end - 10) : end].var() < 0.3 * losses[:end].var() for end in range(10, steps))
    assert run.about()["kept_step"] == steps


def test_boft_with_several_factors_mixes_more_inputs_than_a_block() -> None:
    from modalities.core.butterfly import Rotated

    weight = torch.eye(32)
    reached = []
    for factors in (1, 2, 3):
        turned = Rotated(weight, block=4, factors=factors)
        assert torch.equal(turned(weight), weight)
        turned.generators.data.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
        rotation = turned(weight).detach()
        assert torch.allclose(rotation @ rotation.T, torch.eye(32), atol=1e-5)
        reached.append(int((rotation[0].abs() > 1e-7).sum()))
    assert reached == [4, 8, 16]
