"""Files for other tools: their key names, their alpha, and that they do what the run does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modalities.core import bases, generate, lycoris_files, portable
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.errors import RunFailed
from modalities.core.media import to_image
from modalities.core.studio import Studio
from tests import driver, tiny

COMPONENTS: list[Any] = [
    {"lora": {"rank": 4, "alpha": 2, "text_encoder": 2, "layers": "spatial+convolutions"}},
]


@pytest.fixture(scope="module")
def run(base: Path, encoders: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("portable")
    return driver.train(
        folder / "run",
        base,
        tiny.photos(folder / "photos"),
        encoders,
        components=COMPONENTS,
        phases=[],
        data={"subject": "sks {noun}"},
        train={"steps": 8, "learning_rate": 0.02},
    )


def test_kohya_names_and_alpha(run: Artifact) -> None:
    file = load_file(run.portable / "lora-kohya.safetensors")
    assert all(re.match(r"lora_(unet|te)_[a-z0-9_]+\.(lora_down\.weight|lora_up\.weight|alpha)$", key) for key in file)
    unet = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    text = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    assert file[f"{unet}.alpha"] == 2.0
    # The text encoders share the scale alpha / rank = 1/2 at their own rank.
    assert file[f"{text}.alpha"] == 1.0
    assert file[f"{unet}.lora_down.weight"].shape[0] == 4


def test_comfyui_names(run: Artifact) -> None:
    file = load_file(run.portable / "lora-comfyui.safetensors")
    assert "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.lora_up.weight" in file
    assert "diffusion_model.input_blocks.4.1.proj_in.alpha" in file or any("input_blocks" in key for key in file)
    assert "text_encoders.clip_l.transformer.text_model.encoder.layers.2.self_attn.v_proj.lora_down.weight" in file


def test_names_of_stable_diffusion_1_in_the_original_code() -> None:
    """Against the layout of the original v1 checkpoint, block by block."""
    from modalities.image.backbones.sd import StableDiffusion

    class Config:
        layers_per_block = 2
        up_block_types = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")

    class V1(StableDiffusion):
        def __init__(self) -> None: ...

        @property
        def denoiser(self) -> Any:
            return type("Unet", (), {"config": Config})

    names = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_2": "time_embed.2",
        "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
        "down_blocks.0.attentions.1.proj_in": "input_blocks.2.1.proj_in",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "down_blocks.2.resnets.1.conv2": "input_blocks.8.0.out_layers.3",
        "down_blocks.3.resnets.1.time_emb_proj": "input_blocks.11.0.emb_layers.1",
        "mid_block.resnets.1.conv1": "middle_block.2.in_layers.2",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": "middle_block.1.transformer_blocks.0.attn2.to_k",
        "up_blocks.0.resnets.2.conv_shortcut": "output_blocks.2.0.skip_connection",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.1.conv",
        "up_blocks.1.attentions.0.proj_out": "output_blocks.3.1.proj_out",
        "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
        "up_blocks.3.resnets.2.conv2": "output_blocks.11.0.out_layers.3",
        "conv_out": "out.2",
    }
    base = V1()
    assert {name: base.ldm_name(name) for name in names} == names


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_file_does_in_a_fresh_pipeline_what_the_run_does(
    layout: str, run: Artifact, base: Path, encoders: tuple[str, str]
) -> None:
    sample = run.recipe().sample
    ours = generate.of_studio(run.studio(driver.machine(encoders, run.folder / "cache")), "a sks dog", seed=1, index=0)
    fresh = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    fresh.pipeline().load_lora_weights(run.portable, weight_name=f"lora-{layout}.safetensors")
    (pixels,) = generate.pictures(fresh, fresh.pipeline(), ["a sks dog"], seed=1, indices=[0], sample=sample, side=32)
    theirs = torch.frombuffer(bytearray(to_image(pixels).tobytes()), dtype=torch.uint8).int()
    own = torch.frombuffer(bytearray(ours.tobytes()), dtype=torch.uint8).int()
    assert (theirs - own).abs().max() <= 1


@pytest.mark.parametrize("layout", ["diffusers", "kohya", "comfyui"])
def test_a_file_that_does_something_else_is_noticed(
    layout: str, run: Artifact, encoders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = run.studio(driver.machine(encoders, run.folder / "cache"))
    original = portable.write_tensors

    def spoiled(path: Path, tensors: dict[str, Any], about: Any = None) -> None:
        if path.stem == f"lora-{layout}":
            key = next(key for key in tensors if "up.weight" in key or "lora_B" in key)
            tensors = tensors | {key: tensors[key] * 1.5}
        original(path, tensors, about)

    monkeypatch.setattr(portable, "write_tensors", spoiled)
    with pytest.raises(RunFailed, match=f"lora-{layout}.*off"):
        portable.export(studio, tmp_path)


def test_after_export_the_run_still_generates_the_same(
    run: Artifact, encoders: tuple[str, str], tmp_path: Path
) -> None:
    studio = run.studio(driver.machine(encoders, run.folder / "cache"))
    before = generate.of_studio(studio, "a sks dog", seed=1, index=0)
    portable.export(studio, tmp_path)
    assert generate.of_studio(studio, "a sks dog", seed=1, index=0).tobytes() == before.tobytes()


def _drawn_by_diffusers(run: Artifact, base: Path) -> bytes:
    """What a fresh pipeline over `base` draws of the run's new word."""
    fresh = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
    fresh.pipeline().load_textual_inversion(run.portable, weight_name="learned_embeds.safetensors")
    sample = run.recipe().sample
    (pixels,) = generate.pictures(fresh, fresh.pipeline(), ["a <new>"], seed=0, indices=[0], sample=sample, side=32)
    return to_image(pixels).tobytes()


@pytest.mark.parametrize("vectors", [1, 3])
def test_learned_embeds_load_in_a_fresh_pipeline(
    vectors: int, base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    run = driver.train(
        tmp_path / "run",
        base,
        tiny.photos(tmp_path / "photos"),
        encoders,
        components=[{"textual_inversion": {"vectors": vectors}}],
        phases=[],
        train={"steps": 2, "learning_rate": 0.1},
    )
    ours = generate.of_studio(run.studio(driver.machine(encoders, tmp_path / "cache")), "a <new>", seed=0, index=0)
    assert _drawn_by_diffusers(run, base) == ours.tobytes()


def test_fine_tuned_networks_and_a_new_word_load_in_a_fresh_pipeline(
    base: Path, encoders: tuple[str, str], tmp_path: Path
) -> None:
    run = driver.train(
        tmp_path / "run",
        base,
        tiny.photos(tmp_path / "photos"),
        encoders,
        components=[{"full_finetune": {"text_encoder": True}}, {"textual_inversion": {"vectors": 2}}],
        phases=[],
        train={"steps": 2, "learning_rate": 0.01},
    )
    ours = generate.of_studio(run.studio(driver.machine(encoders, tmp_path / "cache")), "a <new>", seed=0, index=0)
    mended = tmp_path / "mended"
    shutil.copytree(base, mended)
    for part in ("unet", "text_encoder"):
        shutil.copytree(run.portable / part, mended / part, dirs_exist_ok=True)
    assert _drawn_by_diffusers(run, mended) == ours.tobytes()


def test_inspect_reads_loras_of_other_tools(tmp_path: Path) -> None:
    from modalities.core.tensor_files import describe

    name = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    save_file(
        {
            f"{name}.lora_down.weight": torch.zeros(8, 4).half(),
            f"{name}.lora_up.weight": torch.zeros(4, 8).half(),
            f"{name}.alpha": torch.tensor(4.0),
        },
        tmp_path / "other.safetensors",
        {"ss_network_dim": "8"},
    )
    facts = describe(tmp_path / "other.safetensors")
    assert (facts["layout"], facts["rank"], facts["alpha"], facts["parts"]) == ("kohya", "8", "4", "te1 (1)")
    assert facts["about_ss_network_dim"] == "8"


CHANGES: dict[str, Any] = {
    "dora": {"dora": {"rank": 4, "alpha": 2, "layers": "spatial+convolutions"}},
    "loha": {"lycoris": {"kind": "loha", "rank": 4, "alpha": 2, "layers": "spatial+convolutions"}},
    "lokr": {"lycoris": {"kind": "lokr", "rank": 2, "alpha": 1, "layers": "spatial+convolutions"}},
    "oft": {"oft": {"block": 4}},
    "boft": {"boft": {"block": 4, "layers": "spatial+convolutions"}},
    "spectral_shifts": {"spectral_shifts": {}},
}


def changed(path: Path, layout: str, bare: Any) -> None:
    """Add a file to a plain UNet, layer by layer, as tools of a layout do."""
    file = load_file(path)
    for module, layer in list(bare.denoiser.named_modules()):
        if not hasattr(layer, "weight") or "." not in module:
            continue
        prefix = bare.portable_names(f"unet.{module}")[layout] + "." if "norm" not in module else "none"
        found = {key.removeprefix(prefix): value for key, value in file.items() if key.startswith(prefix)}
        if found:
            change = lycoris_files.change_of(found, layer.weight.data, over_base=layout == "comfyui")
            layer.weight.data = layer.weight.data + change


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_weights_has_a_file_that_does_what_the_run_does(name: str, base: Path, tmp_path: Path) -> None:
    method = driver.method(base, components=[CHANGES[name]], phases=[], data={"subject": "sks {noun}"})
    backbone, sample = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True), method.sample
    studio = Studio(backbone, Concept("dog", "sks dog"), method, training=False, cache=Cache(tmp_path / "cache"))
    for number, (_, value) in enumerate(studio.parameters()):
        value.data += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
    ours = generate.of_studio(studio, "a sks dog", seed=1, index=0)
    own = torch.frombuffer(bytearray(ours.tobytes()), dtype=torch.uint8).int()

    def drawn(path: Path | None) -> torch.Tensor:
        fresh = bases.load(bases.resolve(str(base)), choose("cpu"), offline=True)
        if path and path.stem == "lora-diffusers":
            fresh.pipeline().load_lora_weights(path.parent, weight_name=path.name)
        elif path:
            changed(path, path.stem.rpartition("-")[2], fresh)
        (one,) = generate.pictures(fresh, fresh.pipeline(), ["a sks dog"], seed=1, indices=[0], sample=sample, side=32)
        return torch.frombuffer(bytearray(to_image(one).tobytes()), dtype=torch.uint8).int()

    files = [tmp_path / one for one in portable.export(studio, tmp_path)]
    assert len(files) == (3 if name == "dora" else 1)
    assert (drawn(None) - own).abs().max() > 3
    for path in files:
        assert (drawn(path) - own).abs().max() <= 1, path


def test_the_lengths_of_dora_are_those_that_each_tool_divides_by() -> None:
    own, change = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0]])
    # Length 5 in the base, 10 with the change, learned 20: what is added makes it 20 long.
    for over_base in (False, True):
        scale = lycoris_files.dora_scale(torch.tensor([20.0]), own, change, over_base=over_base)
        assert float(scale) == (10.0 if over_base else 20.0)
        layer = {"lora_down.weight": change, "lora_up.weight": torch.ones(1, 1), "alpha": torch.tensor(1.0)}
        added = lycoris_files.change_of(layer | {"dora_scale": scale}, own, over_base=over_base)
        assert torch.allclose(own + added, torch.tensor([[12.0, 16.0]]))
