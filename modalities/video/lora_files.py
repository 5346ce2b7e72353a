"""LoRA files by the names of their layers: written for other tools, read from any, and matched to a base."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modalities.core.artifact import Artifact, read_tensors, write_tensors
from modalities.core.components.lora import low_rank_product
from modalities.core.errors import PcsError, RunFailed, did_you_mean
from modalities.video.learner import Learner

if TYPE_CHECKING:
    from modalities.core.studio import Studio
    from modalities.video.backbone import VideoBackbone

FILES = {"photos": "appearance.safetensors", "frames": "appearance.safetensors", "clips": "motion.safetensors"}
DOWN = re.compile(r"^(?P<layer>.+?)\.(?P<kind>lora_A|lora_down|lora\.down)(\.default)?\.weight$")
UP = {"lora_A": "lora_B", "lora_down": "lora_up", "lora.down": "lora.up"}


# Where diffusers tells the settings of a LoRA whose file has no alphas.
SETTINGS = "lora_adapter_metadata"


@dataclass(frozen=True)
class LoraFile:
    """Weight changes by layer, `unet.<module>` -> (up, down, scale), and what the file says of itself."""

    path: Path
    layers: dict[str, tuple[Tensor, Tensor, float]]
    about: dict[str, str]


def write(studio: Studio, run: Artifact, frames: int) -> list[Path]:
    """Write appearance.safetensors and motion.safetensors, read each back, and compare.

    Keys of LoRAs are those of diffusers (`unet.<module>.lora_A.weight`).

    Raises:
        RunFailed: a file reads back differently.
    """
    written: list[Path] = []
    concept, backbone = studio.concept, studio.backbone
    for part in studio.components:
        if not isinstance(part, Learner) or not part.kept:
            continue
        tensors = part.portable()
        settings = {"base": studio.recipe.backbone, "base_fingerprint": backbone.fingerprint} | part.told()
        words = {"noun": concept.noun, "phrase": concept.phrase, "frames": frames}
        # One entry only: safetensors writes several in any order, and the same run must give the same bytes.
        about = {"pcs": json.dumps({"learned": part.name, **settings, **words})}
        path = run.folder / FILES[part.source]
        write_tensors(path, tensors, about)
        again = read_tensors(path)[0]
        if set(again) != set(tensors) or any(not torch.equal(again[name], tensors[name]) for name in tensors):
            raise RunFailed(f"{path}: reads back differently; please report this.")
        written.append(path)
    return written


def read(path: Path) -> LoraFile:
    """Read a LoRA in the layout of diffusers, PEFT or kohya.

    Raises:
        PcsError: the file is damaged, holds no LoRA, or a DoRA.
    """
    tensors, about = read_tensors(path)
    layers: dict[str, tuple[Tensor, Tensor, float]] = {}
    for key, down in tensors.items():
        found = DOWN.match(key)
        if not found:
            continue
        up = tensors.get(key.replace(found["kind"], UP[found["kind"]]))
        if up is None:
            raise PcsError(f"{path}: holds one half of {found['layer']} only; it is damaged.")
        alpha = tensors.get(f"{found['layer']}.alpha")
        scale = _told_scale(about, found["layer"], len(down)) if alpha is None else float(alpha) / len(down)
        layers[found["layer"]] = (up.float(), down.float(), scale)
    if any("lora_magnitude_vector" in key or key.endswith(".dora_scale") for key in tensors):
        raise PcsError(f"{path}: is a DoRA, which also scales the base's weights; only plain LoRAs can be added.")
    if not layers:
        learned = json.loads(about.get("pcs", "{}")).get("learned")
        why = f" but what {learned} learned, which works in its own run only" if learned else ""
        raise PcsError(f"{path}: holds no LoRA{why}.")
    return LoraFile(path, layers, about)


def _told_scale(about: dict[str, str], layer: str, rank: int) -> float:
    """What a layer's change is multiplied by as the file's metadata say; 1 if they do not."""
    settings, (part, _, module) = json.loads(about.get(SETTINGS, "{}")), layer.partition(".")
    patterns: dict[str, float] = settings.get(f"{part}.alpha_pattern") or {}
    own = [alpha for name, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({name})", module)]
    alpha = own[0] if own else settings.get(f"{part}.lora_alpha", rank)
    return alpha / (rank**0.5 if settings.get(f"{part}.use_rslora") else rank)


@dataclass(frozen=True)
class Match:
    """Weight changes of a file for the layers of a base that it fits. total: layers in the file."""

    path: Path
    deltas: dict[nn.Module, Tensor]
    total: int
    unmatched: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.deltas)}/{self.total} modules matched"


def match(file: LoraFile, backbone: VideoBackbone) -> Match:
    """Find the layers of a base that a file changes, by name and shape.

    Raises:
        PcsError: none is there, or one has another shape; names the nearest.
    """
    known = _layers(backbone)
    deltas: dict[nn.Module, Tensor] = {}
    unmatched: list[str] = []
    for name, (up, down, scale) in file.layers.items():
        layer = known.get(_flat(name))
        if layer is None:
            unmatched.append(name)
            continue
        delta = scale * low_rank_product(up, down)
        if delta.shape != layer.weight.shape:
            raise PcsError(
                f"{file.path}: is of another base: {name} is {tuple(delta.shape)} in it, here "
                f"{tuple(layer.weight.shape)}."  # pyright: ignore
            )
        deltas[layer] = delta
    if not deltas:
        names = [name.removesuffix(".base_layer") for name, _ in backbone.denoiser.named_modules() if name]
        plain = unmatched[0].partition(".")[2] or unmatched[0]
        raise PcsError(
            f"{file.path}: 0/{len(file.layers)} modules matched: this base has no {unmatched[0]}; "
            f"{did_you_mean(plain, names) if _is_near(plain, names) else _some(names)}"
        )
    return Match(file.path, deltas, len(file.layers), tuple(unmatched))


@contextmanager
def folded_in(matches: Sequence[tuple[Match, float]]) -> Generator[None]:
    """Inside, the weight changes are added, each times its weight; leaving restores the weights bit for bit."""
    layers = list(dict.fromkeys(layer for one, weight in matches if weight for layer in one.deltas))
    own = [layer.weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, own, strict=True):
            delta = sum(share * one.deltas[layer] for one, share in matches if layer in one.deltas)
            layer.weight.data = weight + torch.as_tensor(delta).to(weight)
        yield
    finally:
        for layer, weight in zip(layers, own, strict=True):
            layer.weight.data = weight


def _layers(backbone: VideoBackbone) -> dict[str, nn.Module]:
    """Every layer with weights by its name in all tools' spelling; one that is tuned stands under its own name."""
    parts: dict[str, nn.Module] = {**backbone.denoisers(), **backbone.text_encoders}
    found: dict[str, nn.Module] = {}
    for part, network in parts.items():
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and ".lora_" not in name:
                plain = name.removesuffix(".base_layer").removeprefix("text_model.")
                found[_flat(f"{part}.{plain}")] = module
    return found


def _flat(name: str) -> str:
    """One spelling for all tools: `unet.a.b`, `lora_unet_a_b` and `base_model.model.a.b` become `unet_a_b`."""
    flat = name.replace("base_model.model.", "unet.").replace(".", "_")
    flat = flat.removeprefix("lora_").replace("text_encoder_text_model_", "text_encoder_")
    flat = re.sub(r"^te(\d?)_text_model_", r"text_encoder_", flat)
    return flat if flat.startswith(("unet_", "transformer_", "text_encoder")) else f"unet_{flat}"


def _is_near(name: str, names: list[str]) -> bool:
    return did_you_mean(name, names).startswith("did you mean")


def _some(names: list[str]) -> str:
    picked = [name for name in names if name.endswith(("to_q", "to_k", "proj"))][:3]
    return f"it has, for example, {', '.join(picked)}."
