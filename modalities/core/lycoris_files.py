"""Weight changes in the layout of LyCORIS, which kohya's tools, A1111, Forge and ComfyUI open, and how these read it.

LoHa and LoKr have their factors there, DoRA its lengths; whatever else changes weights is written whole, as "diff".
https://github.com/KohakuBlueleaf/LyCORIS
"""

from __future__ import annotations

import torch
from torch import Tensor

from modalities.core.component import Component
from modalities.core.components.lora import low_rank_product
from modalities.core.components.lycoris import Lycoris

Layers = dict[str, dict[str, Tensor]]
"""By module and then by the name that LyCORIS gives a tensor."""


def layers_of(part: Component, denoiser_part: str, changes: dict[str, Tensor]) -> Layers:
    """What a component did to layers of the denoiser; `changes` are those of all components, by module."""
    learned = {name.removeprefix(f"{denoiser_part}."): value for name, value in part.parameters().items()}
    own = {module: change for module, change in changes.items() if any(name.startswith(module) for name in learned)}
    if not isinstance(part, Lycoris):
        return {module: {"diff": change.contiguous()} for module, change in own.items()}
    layers: Layers = {module: {"alpha": torch.tensor(float(part.rank))} for module in own}
    for name, value in learned.items():
        module, _, factor = name.rpartition(".")
        # Some readers leave alpha out where a factor has no rank, so the scale goes into the numbers.
        scale = part.scale if factor in ("hada_w1_a", "lokr_w1", "lokr_w1_a") else 1.0
        layers[module][factor] = scale * value.detach().cpu().float().contiguous()
    return layers


def dora_scale(length: Tensor, weight: Tensor, change: Tensor, *, over_base: bool) -> Tensor:
    """DoRA's lengths `(out, 1, …)` as tools take them: over those of the changed weight, or of the base's (ComfyUI)."""
    column = length.detach().cpu().float().reshape(-1, *[1] * (weight.ndim - 1))
    return column * _lengths(weight) / _lengths(weight + change) if over_base else column.clone()


def change_of(layer: dict[str, Tensor], weight: Tensor, *, over_base: bool = False) -> Tensor:
    """What a tool adds to a weight when it reads one layer of such a file."""
    if "diff" in layer:
        return layer["diff"]
    change = _scaled_product(layer).reshape(weight.shape)
    if "dora_scale" not in layer:
        return change
    lengths = _lengths(weight if over_base else weight + change)
    return (weight + change) * layer["dora_scale"] / lengths - weight


def _scaled_product(layer: dict[str, Tensor]) -> Tensor:
    if "lora_down.weight" in layer:
        down = layer["lora_down.weight"]
        return low_rank_product(layer["lora_up.weight"], down) * layer["alpha"] / len(down)
    if "hada_w1_a" in layer:
        first, second = (layer[f"hada_w{n}_a"] @ layer[f"hada_w{n}_b"] for n in (1, 2))
        return first * second * layer["alpha"] / len(layer["hada_w1_b"])
    first, second = (_factor(layer, f"lokr_w{n}").flatten(1) for n in (1, 2))
    ranks = [len(layer[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in layer]
    return torch.kron(first, second) * (layer["alpha"] / ranks[-1] if ranks else 1.0)


def _factor(layer: dict[str, Tensor], name: str) -> Tensor:
    return layer[name] if name in layer else layer[f"{name}_a"] @ layer[f"{name}_b"]


def _lengths(weight: Tensor) -> Tensor:
    """The length of each output's weights, `(out, 1, …)`."""
    return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
