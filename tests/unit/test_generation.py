"""What components of generation promise: each does what it says, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional

from modalities.core import bases, generate
from modalities.core.attention import Place, maps
from modalities.core.cache import Cache
from modalities.core.components.style_aligned import StyleAligned
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.errors import PcsError
from modalities.core.sampling import inverted, latents_of
from modalities.core.studio import Studio
from tests import driver, tiny

TWO = Concept("dog", "sks dog", others=(Concept("mug", "ohwx mug"),))


def studio_of(
    base: Path, tmp_path: Path, *components: Any, concept: Concept | None = None, guidance: float = 3.0
) -> Studio:
    changes = {"components": list(components), "data": {"subject": "sks {noun}"}, "phases": []}
    recipe = driver.method(base, **changes, sample={"steps": 4, "guidance": guidance})
    backbone = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    concept = concept or Concept("dog", "sks dog")
    return Studio(backbone, concept, recipe, training=False, cache=Cache(tmp_path / "cache"))


def drawn(studio: Studio, prompt: str) -> bytes:
    return generate.of_studio(studio, prompt, seed=0, index=0).tobytes()


def pixels(studio: Studio, prompt: str) -> np.ndarray:
    return np.asarray(generate.of_studio(studio, prompt, seed=0, index=0), np.int16)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return tiny.photos(tmp_path / "reference", 1) / "00.png"


def test_changes_of_generation_leave_the_base_as_it_was(base: Path, tmp_path: Path, photo: Path) -> None:
    plain = drawn(studio_of(base, tmp_path), "a sks dog")
    for component in (
        {"style_aligned": {"reference": str(photo)}},
        {"photo_swap": {"photo": str(photo)}},
        {"delayed_subject": {"share": 0.5}},
        {"regions": {"prompt": "a {} in the snow"}},
        {"subject_agnostic_guidance": {}},
    ):
        studio = studio_of(base, tmp_path, component)
        changed = drawn(studio, "a sks dog")
        assert changed != plain
        assert drawn(studio, "a sks dog") == changed
        studio.components.clear()
        assert drawn(studio, "a sks dog") == plain, component


def test_changes_of_generation_work_inside_one_another(base: Path, tmp_path: Path, photo: Path) -> None:
    plain, delayed = drawn(studio_of(base, tmp_path), "a sks dog"), {"delayed_subject": {"share": 0.5}}
    for other in ({"photo_swap": {"photo": str(photo)}}, {"subject_agnostic_guidance": {"class_share": 0}}):
        studio = studio_of(base, tmp_path, delayed, other)
        assert drawn(studio, "a sks dog") != plain, other
        studio.components.clear()
        assert drawn(studio, "a sks dog") == plain, other


def test_a_subject_that_is_delayed_for_good_is_the_class(base: Path, tmp_path: Path) -> None:
    plain = studio_of(base, tmp_path)
    always = studio_of(base, tmp_path, {"delayed_subject": {"share": 1.0}})
    never = studio_of(base, tmp_path, {"delayed_subject": {"share": 0.0}})
    prompt = "a sks dog in the snow"
    assert drawn(always, prompt) == drawn(plain, "a dog in the snow")
    assert drawn(never, prompt) == drawn(plain, prompt) != drawn(plain, "a dog in the snow")


def test_the_class_can_have_the_last_word_and_the_first_one_too(base: Path, tmp_path: Path) -> None:
    prompt, plain = "a sks dog in the snow", studio_of(base, tmp_path)

    def with_class(share: float, last_share: float) -> bytes:
        return drawn(studio_of(base, tmp_path, {"delayed_subject": {"share": share, "last_share": last_share}}), prompt)

    subject, kind = drawn(plain, prompt), drawn(plain, "a dog in the snow")
    assert with_class(0, 0) == subject
    assert with_class(0, 1) == with_class(0.5, 0.5) == kind
    assert len({subject, kind, with_class(0.5, 0), with_class(0, 0.5), with_class(0.3, 0.3)}) == 5


def test_a_subject_whose_words_change_with_layers_can_be_delayed(base: Path, tmp_path: Path) -> None:
    concept = Concept("dog", "<new>")
    word = {"token_table": {"init": "red"}}
    plain = studio_of(base, tmp_path, word, concept=concept)
    always = studio_of(base, tmp_path, word, {"delayed_subject": {"share": 1.0}}, concept=concept)
    assert drawn(always, "a <new>") == drawn(plain, "a dog") != drawn(plain, "a <new>")


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.stable_diffusion_xl, tiny.stable_diffusion_3, tiny.flux])
@pytest.mark.parametrize(
    "component",
    [{"delayed_subject": {"share": 1.0}}, {"subject_agnostic_guidance": {"scene": 1.0, "class_share": 1.0}}],
)
def test_every_family_draws_the_class_alone_for_as_long_as_it_is_told(
    component: dict[str, Any], make: Callable[[Path], Path], tmp_path: Path
) -> None:
    base, prompt = make(tmp_path / "base"), "a sks dog in the snow"
    always = pixels(studio_of(base, tmp_path, component), prompt)
    plain = studio_of(base, tmp_path)
    subject, wanted = pixels(plain, prompt), pixels(plain, "a dog in the snow")
    # Three rows in one batch differ from two in the last bits of a convolution.
    assert np.abs(always - wanted).max() <= 1 < np.abs(always - subject).max()


def test_a_scene_and_a_subject_that_are_guided_alike_are_plain_guidance(base: Path, tmp_path: Path) -> None:
    prompt = "a sks dog in the snow"
    alike = {"scene": 2, "subject": 2, "scene_share": 1, "class_share": 0}
    apart = pixels(studio_of(base, tmp_path, {"subject_agnostic_guidance": alike}), prompt)
    assert np.abs(apart - pixels(studio_of(base, tmp_path, guidance=6.0), prompt)).max() <= 1
    assert np.abs(apart - pixels(studio_of(base, tmp_path), prompt)).max() > 1


def test_words_that_change_with_layers_can_be_guided_apart(base: Path, tmp_path: Path) -> None:
    apart, concept = {"subject_agnostic_guidance": {"subject": 0.7}}, Concept("dog", "<new>")
    table = studio_of(base, tmp_path, {"token_table": {"init": "red"}}, apart, concept=concept)
    one = studio_of(base, tmp_path, {"textual_inversion": {"init": "red"}}, apart, concept=concept)
    assert np.abs(pixels(table, "a <new>") - pixels(one, "a <new>")).max() <= 1


@pytest.mark.parametrize("name", ["style_aligned", "photo_swap"])
def test_words_that_change_with_layers_can_stand_beside_a_picture(
    name: str, base: Path, tmp_path: Path, photo: Path
) -> None:
    component = {name: {"reference" if name == "style_aligned" else "photo": str(photo)}}
    concept, word = Concept("dog", "<new>"), {"token_table": {"init": "red"}}
    table = studio_of(base, tmp_path, word, component, concept=concept)
    one = studio_of(base, tmp_path, {"textual_inversion": {"init": "red"}}, component, concept=concept)
    assert drawn(table, "a <new>") == drawn(one, "a <new>")


def test_shared_attention_looks_at_the_reference_as_far_as_it_is_told() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(4, 2, 9, 8, generator=draw) for _ in range(3))
    place = Place("attn1", crosses=False, layer=None)
    plain = functional.scaled_dot_product_attention

    def shared(**settings: Any) -> Tensor:
        return StyleAligned(reference=Path("x.png"), **settings)._attend(place, plain, query, key, value)

    # The last two are the reference, without and with its prompt.
    away = shared(shift=-60, normalize=False)
    assert torch.allclose(away, plain(query, key, value), atol=1e-6)
    only = shared(shift=60, normalize=False)
    assert torch.allclose(only[:2], plain(query[:2], key[2:], value[2:]), atol=1e-5)
    like = shared(normalize=True)
    assert not torch.allclose(like[:2], shared(normalize=False)[:2], atol=1e-2)
    assert torch.equal(like[2:], plain(query[2:], key[2:], value[2:]))


def test_inversion_leads_back_to_the_photo_the_closer_the_more_steps(tmp_path: Path, photo: Path) -> None:
    studio = studio_of(Path("mini"), tmp_path)
    backbone = studio.backbone
    clean = latents_of(studio, photo)
    words, away = backbone.conditioning(["a mug"]), []
    for steps in (6, 24):
        scheduler = DDIMScheduler.from_config(backbone.pipeline().scheduler.config, clip_sample=False)
        scheduler.set_timesteps(steps)
        times = sorted(int(time) for time in scheduler.timesteps)
        path = inverted(studio, clean, "a mug", times)
        latents = path[times[-1]]
        with torch.no_grad():
            for time in scheduler.timesteps:
                latents = scheduler.step(backbone.predict(latents, time[None], words), time, latents).prev_sample
        away.append(float((latents - clean).norm() / clean.norm()))
    assert away[1] < 0.6 * away[0]
    assert away[1] < 0.4


def test_a_swap_without_shares_only_starts_from_the_photos_noise(base: Path, tmp_path: Path, photo: Path) -> None:
    def picture(**shares: float) -> Tensor:
        studio = studio_of(base, tmp_path, {"photo_swap": {"photo": str(photo), **shares}})
        image = generate.of_studio(studio, "a sks dog", seed=0, index=0)
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float()

    nothing, everything = picture(cross=0, maps=0, features=0), picture(cross=1, maps=1, features=1)
    assert not torch.equal(nothing, everything)
    # The seed has no say: the start is the photo's.
    assert torch.equal(nothing, picture(cross=0, maps=0, features=0))


def test_a_region_reads_its_own_prompt_and_the_rest_the_whole(base: Path, tmp_path: Path) -> None:
    plain = studio_of(base, tmp_path)
    everywhere = {"regions": {"boxes": [[0, 0, 1, 1]], "prompt": "a {} in the snow"}}
    nearly_nowhere = {"regions": {"boxes": [[0, 0, 0.01, 0.01]], "prompt": "a {} in the snow"}}
    assert drawn(studio_of(base, tmp_path, nearly_nowhere), "a red sks dog") == drawn(plain, "a red sks dog")
    whole = studio_of(base, tmp_path, everywhere)
    assert drawn(whole, "a red sks dog") == drawn(whole, "a blue sks dog at night")
    assert drawn(whole, "a red sks dog") == drawn(plain, "a sks dog in the snow")


def test_regions_need_a_box_for_each_subject(base: Path, tmp_path: Path) -> None:
    studio = studio_of(base, tmp_path, {"regions": {"boxes": [[0, 0, 1, 1]]}}, concept=TWO)
    with pytest.raises(PcsError, match="1 boxes for 2 subjects"):
        drawn(studio, "a sks dog beside a ohwx mug")
    with pytest.raises(PcsError, match="is no box"):
        studio_of(base, tmp_path, {"regions": {"boxes": [[0.5, 0, 0.2, 1]]}})


def test_a_reference_that_is_missing_is_named(base: Path, tmp_path: Path) -> None:
    studio = studio_of(base, tmp_path, {"style_aligned": {"reference": "nowhere.png"}})
    with pytest.raises(PcsError, match=r"nowhere\.png: cannot be read"):
        drawn(studio, "a sks dog")


def test_maps_are_what_attention_takes() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 8, generator=draw) for _ in range(3))
    expected = functional.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(maps(query, key) @ value, expected, atol=1e-6)
