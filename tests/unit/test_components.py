"""What each component promises, shown by what it does."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modalities.core import bases
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.draws import Draws
from modalities.core.errors import PcsError
from modalities.core.layered_text import as_features, as_ids
from modalities.core.studio import Studio
from tests import driver, tiny

ONE = {"phases": [], "data": {"subject": "sks {noun}"}, "sample": {"steps": 1}}
LOOK = {"every": 20, "prompts": ["a photo of {}"], "images": 1, "select": "last"}


def _train(folder: Path, base: Path, encoders: tuple[str, str], **changes: Any) -> Artifact:
    photos = tiny.photos(folder.parent / "photos")
    return driver.train(folder, base, photos, encoders, **(ONE | {"validation": LOOK} | changes))


def _studio(
    base: Path, tmp_path: Path, components: list[Any], *, training: bool = True, subject: str = "sks {noun}"
) -> Studio:
    recipe = driver.method(base, **(ONE | {"components": components, "data": {"subject": subject}}))
    concept = Concept.from_folder(tiny.photos(tmp_path / "photos"), noun="dog", subject=subject)
    backbone = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    return Studio(backbone, concept, recipe, training=training, cache=Cache(tmp_path / "cache"))


def test_output_preservation_keeps_the_class_prompts_where_they_were(
    base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    rates = {"train": {"steps": 20, "learning_rate": 0.02, "batch": 2}}
    free = _train(tmp_path / "free", base, encoders, components=[{"lora": {"rank": 4}}], **rates)
    kept_components = [{"lora": {"rank": 4}}, {"prior_preservation": {"source": "output", "weight": 5.0}}]
    kept = _train(tmp_path / "kept", base, encoders, components=kept_components, **rates)
    assert kept.metrics()[-1]["drift"] < 0.6 * free.metrics()[-1]["drift"]


def test_class_pictures_are_made_once_and_can_be_looked_at(
    base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    components = [{"lora": {"rank": 2}}, {"prior_preservation": {"source": "images", "count": 3}}]
    _studio(base, tmp_path, components)
    pictures = sorted((tmp_path / "cache" / "class-images").glob("*/*.png"))
    assert len(pictures) == 3
    made = [path.stat().st_mtime_ns for path in pictures]
    _studio(base, tmp_path, components)
    assert [path.stat().st_mtime_ns for path in pictures] == made


def test_class_pictures_may_be_given(base: Path, tmp_path: Path) -> None:
    given = tiny.photos(tmp_path / "class", 4, seed=9)
    components = [{"lora": {"rank": 2}}, {"prior_preservation": {"source": "images", "images": str(given)}}]
    studio = _studio(base, tmp_path, components)
    posterior = studio.encode(studio.concept.photos)
    batch = studio.batch(posterior, [0, 1], ["a photo of sks dog"] * 2, [0, 1], purpose="subject")
    both = studio.components[1].batch(batch)
    assert both.is_prior.tolist() == [False, False, True, True]
    assert both.prompts[2:] == ("a photo of dog",) * 2
    assert not (tmp_path / "cache" / "class-images").exists()


def test_given_class_pictures_that_are_missing_are_an_error(base: Path, tmp_path: Path) -> None:
    components = [{"prior_preservation": {"source": "images", "images": "nowhere"}}, {"lora": {"rank": 2}}]
    with pytest.raises(PcsError, match="nowhere"):
        _studio(base, tmp_path, components)


def test_textual_inversion_changes_the_token_and_nothing_else(
    base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    run = _train(
        tmp_path / "run",
        base,
        encoders,
        components=[{"textual_inversion": {"vectors": 2}}],
        data={"subject": "<new>"},
        train={"steps": 3, "learning_rate": 0.05},
    )
    assert {name: tuple(value.shape) for name, value in run.weights().items()} == {
        "textual_inversion.text_encoder": (2, 32)
    }
    studio = run.studio(driver.machine(encoders, tmp_path / "cache"))
    untouched = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    prompts = ["a photo of a dog", "a red car"]
    with torch.no_grad():
        ours = studio.backbone.embed(prompts).tensors["encoder_hidden_states"]
        theirs = untouched.embed(prompts).tensors["encoder_hidden_states"]
    assert torch.equal(ours, theirs)
    before = untouched.denoiser.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in studio.backbone.denoiser.state_dict().items())


def test_a_token_starts_as_the_mean_of_its_words(base: Path, tmp_path: Path) -> None:
    studio = _studio(base, tmp_path, [{"textual_inversion": {"init": "red {noun}"}}], subject="<new>")
    tokenizer = studio.backbone.tokenizers["text_encoder"]
    table = studio.backbone.text_encoders["text_encoder"].get_input_embeddings().weight
    ids = tokenizer("red dog", add_special_tokens=False).input_ids
    assert len(ids) == 2
    assert torch.allclose(studio.weights()["textual_inversion.text_encoder"][0], table[ids].mean(0))


def test_a_token_can_start_from_what_the_text_encoder_makes_of_its_words(base: Path, tmp_path: Path) -> None:
    component = {"textual_inversion": {"init": "red {noun}", "start": "output", "vectors": 2}}
    studio = _studio(base, tmp_path, [component], subject="<new>")
    tokenizer = studio.backbone.tokenizers["text_encoder"]
    with torch.no_grad():
        output = studio.backbone.text_encoders["text_encoder"](tokenizer("red dog", return_tensors="pt").input_ids)
    expected = output.last_hidden_state[0, 1:3].mean(0)
    assert torch.allclose(studio.weights()["textual_inversion.text_encoder"], expected.repeat(2, 1), atol=1e-6)


def test_an_anchor_keeps_a_token_near_its_start(base: Path, encoders: tuple[str, str], tmp_path: Path) -> None:
    changes: dict[str, Any] = {"data": {"subject": "<new>"}, "train": {"steps": 20, "learning_rate": 0.05}}
    moved = []
    for name, anchor in (("free", 0.0), ("held", 10.0)):
        run = _train(tmp_path / name, base, encoders, components=[{"textual_inversion": {"anchor": anchor}}], **changes)
        start = _studio(base, tmp_path / name, [{"textual_inversion": {}}], subject="<new>").weights()
        key = "textual_inversion.text_encoder"
        moved.append(float((run.weights()[key] - start[key]).norm()))
    assert moved[1] < 0.5 * moved[0]


def test_the_first_phase_of_pivotal_tuning_leaves_the_lora_untouched(
    base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    two = [{"learn": {"textual_inversion": 0.05}, "steps": 3}, {"learn": {"lora": 0.01}, "steps": 2}]
    components = [{"textual_inversion": {}}, {"lora": {"rank": 2}}]
    data = {"subject": "<new>"}
    first = _train(tmp_path / "first", base, encoders, components=components, data=data, phases=two[:1])
    both = _train(tmp_path / "both", base, encoders, components=components, data=data, phases=two)
    after_first, after_both = first.weights(), both.weights()
    ups = [name for name in after_first if name.endswith("lora_B.weight")]
    assert ups
    assert all(not after_first[name].any() for name in ups)
    assert any(after_both[name].any() for name in ups)
    token = "textual_inversion.text_encoder"
    assert torch.equal(after_first[token], after_both[token])


def test_lora_with_alpha_twice_the_rank_is_twice_as_strong(base: Path, tmp_path: Path) -> None:
    studio = _studio(base, tmp_path, [{"lora": {"rank": 2, "alpha": 4}}])
    layer: Any = studio.backbone.denoiser.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    assert layer.scaling["default"] == 2.0


def test_while_generating_lora_is_in_the_weights_and_out_again_bit_for_bit(base: Path, tmp_path: Path) -> None:
    studio = _studio(base, tmp_path, [{"lora": {"rank": 2, "layers": "spatial+convolutions", "text_encoder": 2}}])
    for _, value in studio.parameters():
        value.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))

    def answer() -> torch.Tensor:
        backbone = studio.backbone
        backbone.forget_text()
        noisy = torch.ones(1, 4, 16, 16)
        with torch.no_grad():
            return backbone.predict(noisy, torch.tensor([500]), backbone.conditioning(["a dog"]))

    before, weights = answer(), {name: value.clone() for name, value in studio.backbone.denoiser.state_dict().items()}
    with studio.sampling():
        inside = answer()
        layer: Any = studio.backbone.denoiser.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
        assert layer.merged
        assert not torch.equal(layer.base_layer.weight, weights[
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.base_layer.weight"
        ])  # fmt: skip
    assert torch.allclose(inside, before, atol=1e-4)
    assert torch.equal(answer(), before)
    assert all(torch.equal(value, weights[name]) for name, value in studio.backbone.denoiser.state_dict().items())


def test_a_share_of_the_prior_adds_fewer_items(base: Path, tmp_path: Path) -> None:
    for share, items in ((1.0, 4), (0.5, 2), (0.1, 1)):
        studio = _studio(base, tmp_path, [{"lora": {"rank": 2}}, {"prior_preservation": {"share": share}}])
        batch = studio.batch(studio.encode(studio.concept.photos), [0, 1, 2, 0], ["a"] * 4, range(4), purpose="subject")
        (prior,) = (part for part in studio.components if part.name == "prior_preservation")
        assert prior.batch(batch).is_prior.tolist() == [False] * 4 + [True] * items


def test_neighbouring_times_are_spread_evenly() -> None:
    draws = Draws(seed=7)
    for start in (0, 5, 1000):
        times = sorted(draws.uniform("time", range(start, start + 8)).tolist())
        gaps = [after - before for before, after in itertools.pairwise([*times, times[0] + 1])]
        assert max(gaps) < 2 / 8
        assert 0 <= times[0] <= times[-1] < 1


def test_full_finetuning_of_chosen_layers_trains_only_them(
    base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    run = _train(
        tmp_path / "run",
        base,
        encoders,
        components=[{"full_finetune": {"layers": "cross_attention.kv"}}],
        train={"steps": 2, "learning_rate": 0.01},
    )
    assert all("attn2.to_k" in name or "attn2.to_v" in name for name in run.weights())
    trained = load_file(run.portable / "unet" / "diffusion_pytorch_model.safetensors")
    before = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], trained[name])}
    assert changed == {name.removeprefix("full_finetune.unet.") for name in run.weights()}


def test_two_components_cannot_train_one_weight(base: Path, tmp_path: Path) -> None:
    with pytest.raises(PcsError, match="both train"):
        _studio(base, tmp_path, [{"full_finetune": {}}, {"lora": {"rank": 2}}])


def test_gradient_checkpointing_gives_the_same_weights(base: Path, encoders: tuple[str, str], tmp_path: Path) -> None:
    settings = {"steps": 2, "learning_rate": 0.01}
    runs = [
        _train(
            tmp_path / str(on),
            base,
            encoders,
            components=[{"lora": {"rank": 2}}],
            train=settings | {"gradient_checkpointing": on},
        )
        for on in (False, True)
    ]
    plain, checkpointed = (run.weights() for run in runs)
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-6) for name in plain)


def test_batch_size_does_not_change_what_the_photos_meet(base: Path, tmp_path: Path) -> None:
    studio = _studio(base, tmp_path, [{"lora": {"rank": 2}}])
    posterior = studio.encode(studio.concept.photos)

    def items(positions: list[int]) -> Any:
        rows = [studio.draws.pick("photo", position, 3) for position in positions]
        return studio.batch(posterior, rows, ["a dog"] * len(rows), positions, purpose="subject")

    together, first, second = items([4, 5]), items([4]), items([5])
    for name in ("latents", "noise", "t"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(first, name), getattr(second, name)]))


def test_spectral_shifts_begin_as_the_base_and_learn_with_few_numbers(
    base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    studio = _studio(base, tmp_path, [{"spectral_shifts": {}}])
    untouched = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    plain, shifted = untouched.denoiser, studio.backbone.denoiser
    noisy, times = torch.randn(1, 4, 8, 8), torch.tensor([500])
    words = studio.backbone.embed(["a dog"]).tensors["encoder_hidden_states"]
    with torch.no_grad():
        assert torch.equal(plain(noisy, times, words).sample, shifted(noisy, times, words).sample)
    learned = sum(value.numel() for value in studio.weights().values())
    chosen = sum(plain.get_submodule(name).weight.numel() for name in untouched.select("spatial+convolutions"))
    assert learned < chosen / 10
    few = {"train": {"steps": 30, "learning_rate": 0.05, "batch": 2}}
    run = _train(tmp_path / "run", base, encoders, components=[{"spectral_shifts": {}}], **few)
    losses = [line["loss"] for line in run.metrics() if "balance" in line]
    assert losses[-1] < losses[0]


def test_spectral_shifts_are_what_the_paper_says(base: Path, tmp_path: Path) -> None:
    studio = _studio(base, tmp_path, [{"spectral_shifts": {"layers": "cross_attention.kv"}}])
    name = next(iter(studio.learned_by("spectral_shifts")))
    layer = studio.backbone.denoiser.get_submodule(name.removeprefix("unet."))
    before = layer.weight.detach().clone()
    left, values, right = torch.linalg.svd(before, full_matrices=False)
    shift = torch.linspace(-2, 2, len(values))
    with torch.no_grad():
        studio.learned_by("spectral_shifts")[name].copy_(shift)
        assert torch.allclose(layer.weight, left @ torch.diag(torch.relu(values + shift)) @ right, atol=1e-5)


@pytest.mark.parametrize(
    "component",
    [
        {"lycoris": {"kind": "loha", "rank": 2, "layers": "attention+convolutions"}},
        {"lycoris": {"kind": "lokr", "rank": 2, "layers": "attention+convolutions"}},
        {"oft": {"block": 8, "layers": "spatial"}},
        {"boft": {"block": 4}},
        {"dora": {"rank": 2, "layers": "attention+convolutions"}},
    ],
)
def test_structured_adapters_begin_as_the_base_learn_and_reload_exactly(
    component: dict[str, Any], base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    studio = _studio(base, tmp_path, [component])
    untouched = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    noisy, times = torch.randn(1, 4, 8, 8), torch.tensor([500])
    words = untouched.embed(["a dog"]).tensors["encoder_hidden_states"]
    with torch.no_grad():
        plain = untouched.denoiser(noisy, times, words).sample
        assert torch.allclose(studio.backbone.denoiser(noisy, times, words).sample, plain, atol=1e-6)
    few = {"train": {"steps": 30, "learning_rate": 0.02, "batch": 2}}
    run = _train(tmp_path / "run", base, encoders, components=[component], **few)
    losses = [line["loss"] for line in run.metrics() if "balance" in line]
    assert losses[-1] < losses[0]
    one, other = (run.studio(driver.machine(encoders, tmp_path / "cache")) for _ in range(2))
    with torch.no_grad():
        learned, again = (each.backbone.denoiser(noisy, times, words).sample for each in (one, other))
        assert torch.equal(learned, again)
        assert not torch.allclose(learned, plain, atol=1e-3)
        before = {name: value.clone() for name, value in one.backbone.denoiser.state_dict().items()}
        with one.sampling():
            folded = one.backbone.denoiser(noisy, times, words).sample
        assert torch.allclose(folded, learned, atol=1e-4)
        assert all(torch.equal(value, before[name]) for name, value in one.backbone.denoiser.state_dict().items())


def test_oft_refuses_convolutions_that_it_would_not_begin_as(base: Path, tmp_path: Path) -> None:
    with pytest.raises(PcsError, match="a convolution of several pixels"):
        _studio(base, tmp_path, [{"oft": {"block": 8, "layers": "attention+convolutions"}}])


TABLE = {"vectors": 2, "stages": 3}


def _seen(studio: Studio, prompts: list[str], t: int) -> torch.Tensor:
    """What the denoiser predicts of fixed noise."""
    noisy = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(1))
    times = torch.full((len(prompts),), t)
    return studio.backbone.predict(noisy, times, studio.backbone.conditioning(prompts))


def test_a_table_of_words_begins_as_the_one_word_that_textual_inversion_begins_with(base: Path, tmp_path: Path) -> None:
    prompts = ["a photo of <new>", "a photo of a dog", ""]
    one = _studio(base, tmp_path, [{"textual_inversion": {"vectors": 2}}], subject="<new>")
    many = _studio(base, tmp_path, [{"token_table": TABLE}], subject="<new>")
    with torch.no_grad():
        assert torch.allclose(_seen(one, prompts, 500), _seen(many, prompts, 500), atol=1e-5)


def test_every_layer_and_stage_has_a_word_of_its_own(base: Path, tmp_path: Path) -> None:
    studio = _studio(base, tmp_path, [{"token_table": TABLE}], subject="<new>")
    table = studio.learned_by("token_table")["table"]
    assert table.shape[0] == 3 and table.shape[1] > 1
    studio.set_learning(["token_table"])
    _seen(studio, ["a photo of <new>", "a photo of a dog"], 999).square().sum().backward()
    assert table.grad is not None
    touched = table.grad.flatten(2).abs().sum(2) > 0
    assert touched[2].all() and not touched[:2].any(), "at the noisiest time all layers read the last stage alone"
    with torch.no_grad():
        before = _seen(studio, ["a photo of <new>", "a photo of a dog"], 0)
        table[1:] += 1.0
        assert torch.equal(before, _seen(studio, ["a photo of <new>", "a photo of a dog"], 0))
        table[0, 1] += 1.0
        after = _seen(studio, ["a photo of <new>", "a photo of a dog"], 0)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1]), "prompts without the word stay what they were"


@pytest.mark.parametrize("component", [{"token_table": TABLE}, {"token_mapper": {"vectors": 2, "hidden": 16}}])
def test_layered_words_learn_and_reload_exactly(
    component: dict[str, Any], base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    run = _train(
        tmp_path / "run",
        base,
        encoders,
        components=[component],
        data={"subject": "<new>"},
        train={"steps": 20, "learning_rate": 0.01, "batch": 2},
    )
    machine = driver.machine(encoders, tmp_path / "cache")
    weights, fresh = run.weights(), _studio(base, tmp_path, [component], subject="<new>").weights()
    assert all(not torch.equal(value, fresh[name]) for name, value in weights.items())
    again = run.studio(machine).weights()
    assert weights.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


def test_a_computed_word_keeps_the_norm_of_its_class_and_changes_with_layer_and_time(
    base: Path, tmp_path: Path
) -> None:
    studio = _studio(base, tmp_path, [{"token_mapper": {}}], subject="<new>")
    (part,) = studio.components
    with torch.no_grad():
        said = part.words(torch.tensor([0, 500, 999]))  # pyright: ignore
    tokenizer, encoder = studio.backbone.tokenizers["text_encoder"], studio.backbone.text_encoders["text_encoder"]
    ids = tokenizer("dog", add_special_tokens=False).input_ids
    norm = encoder.get_input_embeddings().weight[ids].mean(0).norm()
    assert torch.allclose(said.embeddings.norm(dim=-1), norm.expand(said.embeddings.shape[:-1]), rtol=1e-4)
    flat = torch.nn.functional.normalize(said.embeddings.flatten(0, 2), dim=1)
    assert ((flat @ flat.T).fill_diagonal_(0) < 0.999).all()


def test_fewer_units_say_a_coarser_word(base: Path, tmp_path: Path) -> None:
    studio = _studio(base, tmp_path, [{"token_mapper": {}}], subject="<new>")
    with torch.no_grad():
        whole = _seen(studio, ["a photo of <new>"], 500)
        again = _seen(studio, ["a photo of <new>"], 500)
        studio.components[0].keep = 4  # pyright: ignore
        coarse = _seen(studio, ["a photo of <new>"], 500)
    assert torch.equal(whole, again)
    assert not torch.allclose(whole, coarse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_ids_pass_through_features_of_16_bits(dtype: torch.dtype) -> None:
    ids = torch.arange(65536).view(1, -1)
    assert torch.equal(as_ids(as_features(ids, torch.zeros(1, 65536, 4, dtype=dtype))), ids)


def test_words_for_every_layer_need_one_text_encoder(tmp_path: Path) -> None:
    base = tiny.stable_diffusion_3(tmp_path / "sd3")
    with pytest.raises(PcsError, match="one text encoder"):
        _studio(base, tmp_path, [{"token_table": {}}], subject="<new>")


EDIT: list[Any] = [{"textual_inversion": {"init": "red"}}, {"rank_one_edit": {"beta": 0.7, "tau": 0.02}}]


def _projected(studio: Studio, layer: str, encoding: torch.Tensor) -> torch.Tensor:
    """What a cross-attention projection makes of one encoding."""
    with torch.no_grad():
        return studio.backbone.denoiser.get_submodule(layer)(encoding[None, None])[0, 0]


def test_an_edit_gives_the_word_the_keys_of_its_class_and_learned_values(base: Path, tmp_path: Path) -> None:
    studio = _studio(base, tmp_path, EDIT, subject="<new>")
    learned = studio.learned_by("rank_one_edit")
    values = next(name for name in learned if name.startswith("values."))
    layer = values.removeprefix("values.")
    assert not any(name.startswith("keys.") for name in learned)
    direction = learned["direction"].detach()
    kind = studio.backbone.embed(["a photo of a dog"]).tensors["encoder_hidden_states"][0]
    tokens = studio.backbone.tokenizers["text_encoder"]("a photo of a dog").input_ids
    keys = layer.replace("to_v", "to_k")
    own: Any = studio.backbone.denoiser.get_submodule(keys)
    assert torch.allclose(_projected(studio, keys, direction), own.weight @ kind[len(tokens) - 2], atol=1e-4)
    with torch.no_grad():
        learned[values].fill_(3.0)
    assert torch.allclose(_projected(studio, layer, direction), torch.full_like(learned[values], 3.0), atol=1e-3)
    # The opposite of the word has its part taken out, and gets nothing for it.
    assert torch.allclose(_projected(studio, layer, -direction), torch.zeros_like(learned[values]), atol=1e-3)


def test_the_gate_shuts_with_a_higher_beta(base: Path, tmp_path: Path) -> None:
    sizes: list[float] = []
    for beta in (0.2, 0.9, 1.1, 1.8):
        changed = [EDIT[0], {"rank_one_edit": {"beta": beta, "tau": 0.1}}]
        studio = _studio(base, tmp_path, changed, subject="<new>")
        learned = studio.learned_by("rank_one_edit")
        name = next(name for name in learned if name.startswith("values."))
        sizes.append(float(_projected(studio, name.removeprefix("values."), learned["direction"].detach()).norm()))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.01 * sizes[0]


def test_the_direction_follows_the_word_and_a_run_goes_on_with_it(
    base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"data": {"subject": "<new>"}, "train": {"steps": 6, "learning_rate": 0.01}}
    run = _train(tmp_path / "run", base, encoders, components=EDIT, **changes)
    fresh = _studio(base, tmp_path, EDIT, subject="<new>").weights()
    assert not torch.equal(run.weights()["rank_one_edit.direction"], fresh["rank_one_edit.direction"])
    assert run.weights_file.stat().st_size < 100_000


def test_an_edit_needs_a_word(base: Path, tmp_path: Path) -> None:
    with pytest.raises(PcsError, match="textual_inversion"):
        _studio(base, tmp_path, EDIT[::-1], subject="<new>")
