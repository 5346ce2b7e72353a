"""What was learned, in the formats of other tools; each file is read back and compared before it counts.

LoRA goes to `lora-diffusers.safetensors`, `lora-kohya.safetensors` (also A1111, Forge) and
`lora-comfyui.safetensors`, tokens to `learned_embeds.safetensors`, fine-tuned networks to diffusers folders, other
changes of weights to `lycoris-kohya.safetensors`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modalities.core import lycoris_files
from modalities.core.artifact import read_tensors, write_tensors
from modalities.core.bases import quiet
from modalities.core.components.dora import Dora
from modalities.core.components.full_finetune import FullFinetune
from modalities.core.components.lora import Lora, low_rank_product
from modalities.core.components.rank_one_edit import RankOneEdit
from modalities.core.components.textual_inversion import TextualInversion
from modalities.core.concept import numbered
from modalities.core.draws import generator
from modalities.core.errors import RunFailed
from modalities.core.layered_token import LayeredToken
from modalities.core.peft_layers import ADAPTER, weight_changes
from modalities.core.vocabulary import without_new_words

if TYPE_CHECKING:
    from modalities.core.component import Component
    from modalities.core.studio import Studio

# Largest deviation of a reloaded file, relative to what the adapter changes.
TOLERANCE = 1e-3
TRIAL = "trial"


def export(studio: Studio, folder: Path) -> list[str]:
    """Write every portable file that the studio's components have; return their names.

    Words for every layer and gated edits have no file in other tools, and what learned beside them is little without.

    Raises:
        RunFailed: a file, read back, does not do what the adapter does.
    """
    written: list[str] = []
    if any(isinstance(part, LayeredToken | RankOneEdit) for part in studio.components):
        return written
    for part in studio.components:
        if isinstance(part, TextualInversion):
            written += _export_tokens(part, studio, folder)
        elif isinstance(part, Lora):
            written += _export_lora(part, studio, folder)
        elif isinstance(part, Dora):
            written += _export_dora(part, studio, folder)
        elif isinstance(part, FullFinetune):
            written += _export_networks(part, studio, folder)
        else:
            written += _export_changes(part, studio, folder)
    return written


def _export_tokens(part: TextualInversion, studio: Studio, folder: Path) -> list[str]:
    """`{token: (vectors, width)}`, as `load_textual_inversion` of diffusers takes it.

    One file for each text encoder and subject, and for each component that learns words.
    """
    names: list[str] = []
    for key, rows in part.parameters().items():
        encoder, _, number = key.partition(".")
        token = numbered(part.token, int(number or 1))
        kind = "" if part.name == "textual_inversion" else part.name
        parts = ["learned_embeds", *filter(None, (kind, encoder.removeprefix("text_encoder").strip("_"), number))]
        name = "_".join(parts) + ".safetensors"
        value = rows.detach().cpu().float().contiguous()
        write_tensors(folder / name, {token: value[0].clone() if part.vectors == 1 else value}, {"format": "pt"})
        read, _ = read_tensors(folder / name)
        if not torch.equal(read[token].reshape(value.shape), value):
            raise RunFailed(f"{folder / name}: reads back differently; please report this.")
        names.append(name)
    return names


def _export_networks(part: FullFinetune, studio: Studio, folder: Path) -> list[str]:
    """The fine-tuned networks as diffusers folders, which `from_pretrained` of their class opens, without new words."""
    backbone = studio.backbone
    names = [backbone.denoiser_part, *(backbone.text_encoders if part.text_encoder else [])]
    if studio.recipe.component("lora"):
        return []
    for name in names:
        unfinished = folder / f".{name}.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        network: Any = backbone.modules()[name]
        with quiet(), without_new_words(network):
            network.save_pretrained(unfinished, safe_serialization=True)
        shutil.rmtree(folder / name, ignore_errors=True)
        unfinished.rename(folder / name)
    return names


def _export_lora(part: Lora, studio: Studio, folder: Path) -> list[str]:
    weights = {name: value.detach().cpu().float().contiguous() for name, value in part.parameters().items()}
    layouts = studio.backbone.portable_lora(weights, part.scale)
    names: list[str] = []
    for layout, tensors in layouts.items():
        path = folder / f"lora-{layout}.safetensors"
        write_tensors(path, tensors, {"format": "pt"})
        if layout == "comfyui":
            _verify_deltas(path, studio, weights, part.scale)
        else:
            _verify_by_loading(path, studio)
        names.append(path.name)
    return names


def _export_dora(part: Dora, studio: Studio, folder: Path) -> list[str]:
    """LoRA's three layouts with the lengths that DoRA learned; tools measure these from different weights."""
    backbone = studio.backbone
    learned = {name: value.detach().cpu().float().contiguous() for name, value in part.parameters().items()}
    lengths = {name: value for name, value in learned.items() if "lora_magnitude" in name}
    factors = {name: value for name, value in learned.items() if name not in lengths}
    layouts = backbone.portable_lora(factors, part.scale)
    layouts["diffusers"] |= {name.removesuffix(".weight"): value for name, value in lengths.items()}
    changes = weight_changes(backbone.denoiser)
    for name, length in lengths.items():
        module = name.removesuffix(".lora_magnitude_vector.weight")
        weight = _own_weight(studio, module.partition(".")[2])
        product = low_rank_product(factors[f"{module}.lora_B.weight"], factors[f"{module}.lora_A.weight"])
        for layout, key in backbone.portable_names(module).items():
            layouts[layout][f"{key}.dora_scale"] = lycoris_files.dora_scale(
                length, weight, part.scale * product, over_base=layout == "comfyui"
            )
    for layout, tensors in layouts.items():
        path = folder / f"lora-{layout}.safetensors"
        write_tensors(path, tensors, {"format": "pt"})
        if layout == "diffusers":
            _verify_by_loading(path, studio)
        else:
            _verify_changes(path, layout, studio, changes)
        if layout == "comfyui":
            _verify_deltas(path, studio, factors, part.scale)
    return [f"lora-{layout}.safetensors" for layout in layouts]


def _export_changes(part: Component, studio: Studio, folder: Path) -> list[str]:
    """What a component did to weights of the denoiser, in the layout of LyCORIS; nothing for bases that it has not."""
    if not part.parameters():
        return []
    backbone = studio.backbone
    changes = weight_changes(backbone.denoiser)
    layers = lycoris_files.layers_of(part, backbone.denoiser_part, changes)
    named = {module: backbone.portable_names(f"{backbone.denoiser_part}.{module}").get("kohya") for module in layers}
    if not layers or not all(named.values()):
        return []
    path = folder / "lycoris-kohya.safetensors"
    tensors = {f"{named[module]}.{key}": value for module, layer in layers.items() for key, value in layer.items()}
    write_tensors(path, tensors, {"format": "pt"})
    _verify_changes(path, "kohya", studio, {module: changes[module] for module in layers})
    return [path.name]


def _own_weight(studio: Studio, module: str) -> Tensor:
    """The base's weight of a layer of the denoiser, float32, on the CPU."""
    layer: Any = studio.backbone.denoiser.get_submodule(module)
    if hasattr(layer, "parametrizations"):
        return layer.parametrizations.weight.original.detach().cpu().float()
    return layer.get_base_layer().weight.detach().cpu().float()


def _verify_changes(path: Path, layout: str, studio: Studio, changes: dict[str, Tensor]) -> None:
    """Compare what tools of a layout add to the weights when they read the file with our changes, layer by layer."""
    backbone, (tensors, _) = studio.backbone, read_tensors(path)
    for module, change in changes.items():
        prefix = backbone.portable_names(f"{backbone.denoiser_part}.{module}")[layout] + "."
        layer = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        read = lycoris_files.change_of(layer, _own_weight(studio, module), over_base=layout == "comfyui")
        _require_close(path, read - change, change)


def _verify_by_loading(path: Path, studio: Studio) -> None:
    """Load the file as any diffusers user would, beside our adapter, and compare what the networks then say."""
    pipeline = studio.backbone.pipeline()
    ours = _answers(studio)
    with quiet():
        pipeline.disable_lora()
        base = _answers(studio)
        pipeline.enable_lora()
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=TRIAL, local_files_only=True)
        pipeline.set_adapters(TRIAL)
        theirs = _answers(studio)
        pipeline.delete_adapters(TRIAL)
        pipeline.set_adapters(ADAPTER)
    _require_close(path, theirs - ours, ours - base)


def _verify_deltas(path: Path, studio: Studio, weights: dict[str, Tensor], scale: float) -> None:
    """Compare the weight changes that the file spells with ours, layer by layer."""
    read = studio.backbone.comfyui_deltas(read_tensors(path)[0])
    own = {
        name.removesuffix(".lora_A.weight"): scale * low_rank_product(weights[name.replace("lora_A", "lora_B")], down)
        for name, down in weights.items()
        if name.endswith(".lora_A.weight")
    }
    if set(read) != set(own):
        raise RunFailed(
            f"{path}: reads back with other layers ({sorted(set(read) ^ set(own))[0]}); please report this."
        )
    for name, delta in own.items():
        _require_close(path, read[name] - delta, delta)


def _answers(studio: Studio) -> Tensor:
    """What the denoiser says to one fixed question, text encoders included."""
    backbone = studio.backbone
    backbone.forget_text()
    side = studio.resolution // backbone.pixels_per_latent
    noisy = torch.randn(1, backbone.latent_channels, side, side, generator=generator("portable"))
    t = backbone.schedule.timesteps(torch.tensor([0.5])).to(backbone.device)
    with torch.no_grad():
        subject = studio.concept.subjects[0]
        conditioning = backbone.conditioning([subject.prompt(studio.recipe.data.prompts[0])])
        return backbone.predict(noisy.to(backbone.device), t, conditioning).float().cpu()


def _require_close(path: Path, deviation: Tensor, effect: Tensor) -> None:
    if float(deviation.norm()) > TOLERANCE * float(effect.norm()) + 1e-6:
        share = float(deviation.norm()) / max(float(effect.norm()), 1e-12)
        raise RunFailed(f"{path}: reads back {share:.2%} off; please report this.")
