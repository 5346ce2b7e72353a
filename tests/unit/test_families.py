"""Every family of bases behind one face: learns, keeps, reloads, and generates the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modalities.core import bases, generate
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.errors import PcsError
from modalities.core.media import to_image
from modalities.core.step import denoise
from modalities.core.studio import Studio
from modalities.core.vocabulary import add_words, mean_embedding
from tests import driver, tiny

SETTINGS: dict[str, Any] = {
    "components": [
        {
            "lora": {
                "rank": 4,
                "alpha": 8,
                "text_encoder": 2,
                "layers": r"re:(to_[qkv]|to_out\.0|conv[12]|proj|ff\.net\.2)$",
            }
        },
        {"prior_preservation": {"weight": 0.2}},
    ],
    "phases": [],
    "data": {"subject": "sks {noun}", "resolution": 32},
    "train": {"steps": 30, "learning_rate": 0.01, "batch": 2},
    "validation": {"every": 15, "prompts": ["a photo of {}"], "images": 2, "select": "last"},
}


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "epsilon": tiny.stable_diffusion,
    "v_prediction": partial(tiny.stable_diffusion, prediction_type="v_prediction"),
    "xl": tiny.stable_diffusion_xl,
    "flow": tiny.stable_diffusion_3,
    "flux": tiny.flux,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp("family") / request.param)


@pytest.fixture(scope="module")
def trained(family: Path, encoders: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("trained")
    return driver.train(folder / "run", family, tiny.photos(folder / "photos"), encoders, **SETTINGS)


def _opened(run: Artifact, encoders: tuple[str, str]) -> Studio:
    return run.studio(driver.machine(encoders, run.folder.parent / "cache"))


def _most_apart(first: Image.Image, second: Image.Image) -> int:
    """The largest difference of two pictures, in levels."""
    return int(np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).max())


def test_learning_lowers_the_loss_at_noise_it_never_trained_on(trained: Artifact) -> None:
    looks = [line["loss"] for line in trained.metrics() if "balance" in line]
    assert looks[-1] < 0.97 * looks[0]


def test_a_reloaded_run_generates_what_it_previewed(trained: Artifact, encoders: tuple[str, str]) -> None:
    studio = _opened(trained, encoders)
    picture = generate.of_studio(studio, "a photo of sks dog", seed=0, index=1)
    preview = Image.open(trained.samples / "step-000030.png").crop((32, 0, 64, 32))
    assert _most_apart(picture, preview) <= 1


def test_weights_survive_saving_exactly(trained: Artifact, encoders: tuple[str, str]) -> None:
    loaded = _opened(trained, encoders).weights()
    saved = load_file(trained.weights_file)
    assert set(loaded) == set(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_as_base_is_the_base_bit_for_bit(
    trained: Artifact, family: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    recipe = driver.method(family, **SETTINGS)
    photos = tiny.photos(tmp_path / "photos")
    concept = Concept.from_folder(photos, noun="dog", subject="sks {noun}")
    backbone = bases.load(bases.resolve(str(family)), choose("cpu"), offline=True)
    studio = Studio(backbone, concept, recipe, training=True, cache=Cache(tmp_path / "cache"))
    batch = studio.batch(studio.encode(concept.photos), [0, 1], ["a dog", "a cat"], [0, 1], purpose="test")
    with torch.no_grad():
        untouched = denoise(backbone, batch).prediction
        studio.load(load_file(trained.weights_file))
        learned = denoise(backbone, batch).prediction
        with studio.as_base():
            as_base = denoise(backbone, batch).prediction
        after = denoise(backbone, batch).prediction
    assert not torch.allclose(learned, untouched, atol=1e-3)
    assert torch.equal(as_base, untouched)
    assert torch.equal(after, learned)


def test_the_diffusers_file_does_in_a_fresh_pipeline_what_the_run_does(
    trained: Artifact, family: Path, encoders: tuple[str, str]
) -> None:
    import diffusers

    ours = generate.of_studio(_opened(trained, encoders), "a photo of sks dog", seed=3, index=0)
    fresh = bases.load(bases.resolve(str(family)), choose("cpu"), offline=True)
    pipeline = fresh.pipeline()
    assert isinstance(pipeline, diffusers.DiffusionPipeline)
    pipeline.load_lora_weights(trained.portable, weight_name="lora-diffusers.safetensors")
    sample = trained.recipe().sample
    pixels = generate.pictures(fresh, pipeline, ["a photo of sks dog"], seed=3, indices=[0], sample=sample, side=32)
    assert _most_apart(to_image(pixels[0]), ours) <= 1


def test_schedule_recovers_the_clean_latents_from_a_perfect_answer(family: Path) -> None:
    schedule = bases.load(bases.resolve(str(family)), choose("cpu"), offline=True).schedule
    latents, noise = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    t = schedule.timesteps(torch.tensor([0.1, 0.3, 0.5, 0.8]))
    noisy = schedule.noised(latents, noise, t)
    assert torch.allclose(schedule.clean(noisy, schedule.target(latents, noise, t), t), latents, atol=1e-3)
    ratio = schedule.signal_to_noise(t)
    assert ratio[0] > ratio[1] > ratio[2] > ratio[3] > 0 or ratio[0] < ratio[1] < ratio[2] < ratio[3]


def test_the_denoiser_is_asked_as_the_bases_own_pipeline_asks_it(family: Path) -> None:
    backbone = bases.load(bases.resolve(str(family)), choose("cpu"), offline=True)
    heard: list[tuple[Any, Any]] = []
    handle = backbone.denoiser.register_forward_hook(
        lambda module, args, given, out: heard.append((given["timestep"] if "timestep" in given else args[1], out[0])),
        with_kwargs=True,
    )
    noise = torch.randn(2, backbone.latent_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    prompts = ["a photo of a dog", "a red mug"]
    pipeline = backbone.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline(prompts, num_inference_steps=1, guidance_scale=1.0, height=32, width=32, latents=backbone.packed(noise))
    handle.remove()
    ((asked, answer),) = heard
    t = asked.flatten()[:1].expand(2) * (backbone.schedule.length if type(backbone).__name__ == "Flux" else 1)
    with torch.no_grad():
        ours = backbone.predict(noise, t, backbone.conditioning(prompts))
    assert torch.allclose(backbone.packed(ours), answer, atol=1e-5)


def test_a_side_that_a_base_cannot_make_is_refused(family: Path, encoders: tuple[str, str], tmp_path: Path) -> None:
    changes = SETTINGS | {"data": {"subject": "sks {noun}", "resolution": 33}}
    with pytest.raises(PcsError, match=r"data.resolution=33: this base takes multiples of [48] pixels; use 32"):
        driver.train(tmp_path / "run", family, tiny.photos(tmp_path / "photos"), encoders, **changes)


def test_a_negative_prompt_is_refused_where_it_would_do_nothing(encoders: tuple[str, str], tmp_path: Path) -> None:
    changes = SETTINGS | {"sample": {"steps": 2, "negative_prompt": "blurry"}}
    with pytest.raises(PcsError, match=r"sample\.negative_prompt: this base takes none"):
        photos = tiny.photos(tmp_path / "photos")
        driver.train(tmp_path / "run", tiny.flux(tmp_path / "flux"), photos, encoders, **changes)


def test_xl_pools_where_the_text_ends_also_with_a_new_word(tmp_path: Path) -> None:
    backbone = bases.load(bases.resolve(str(tiny.stable_diffusion_xl(tmp_path / "xl"))), choose("cpu"), offline=True)
    encoder, words = backbone.text_encoders["text_encoder_2"], backbone.tokenizers["text_encoder_2"]
    assert encoder.config.eos_token_id == 2
    start = mean_embedding(words, encoder, "dog")
    rows = add_words(words, encoder, ["<new>"], start[None])
    prompt = "a photo of <new> in the snow"
    pooled = backbone.embed([prompt]).tensors["text_embeds"]
    tokens = words(prompt, padding="max_length", return_tensors="pt").input_ids
    hidden = encoder(tokens).last_hidden_state[0]
    end = tokens[0].tolist().index(words.eos_token_id)
    assert torch.allclose(pooled[0], encoder.text_projection(hidden[end]), atol=1e-6)
    pooled.sum().backward()
    assert rows.grad is not None
    assert rows.grad.abs().sum() > 0


def test_xl_says_nothing_for_an_empty_prompt(tmp_path: Path) -> None:
    backbone = bases.load(bases.resolve(str(tiny.stable_diffusion_xl(tmp_path / "xl"))), choose("cpu"), offline=True)
    said = backbone.embed(["", "a dog"]).tensors
    assert all(not value[0].any() and value[1].any() for value in said.values())
