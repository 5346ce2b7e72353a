"""What the layers of a base are given while it draws: the mean of x x^T over all inputs x of each."""

from __future__ import annotations

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modalities.core import generate
from modalities.core.studio import Studio

PICTURES = 2


def second_moments(studio: Studio, prompts: list[str]) -> dict[str, Float[Tensor, "inputs inputs"]]:
    """Let a studio draw prompts, and return of every linear and convolution layer whose weights its recipe changes,
    by the layer's name in the base ("unet.conv_in"), the uncentred covariance of its inputs, float64.

    The inputs of a convolution are all its windows, channels first.
    """
    moments = {name: _Moment() for name in _layers(studio)}
    hooks = [layer.register_forward_pre_hook(moments[name].see) for name, layer in _layers(studio).items()]
    try:
        generate.previews(studio, prompts, PICTURES)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: one.total / one.count for name, one in moments.items() if one.count}


def layer_of(weight: str) -> str:
    """The layer of a weight of a run: "lora.unet.conv_in.lora_A.weight" -> "unet.conv_in"."""
    return re.sub(r"(\.lora_[AB])?\.(weight|bias)$", "", weight.partition(".")[2])


class _Moment:
    def __init__(self) -> None:
        self.total = torch.zeros(1, dtype=torch.float64)
        self.count = 0

    def see(self, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        rows = _rows(_own(layer), given[0].detach().float())
        self.total = self.total + (rows.T @ rows).double().cpu()
        self.count += len(rows)


def _layers(studio: Studio) -> dict[str, nn.Module]:
    networks = studio.backbone.modules()
    names = {layer_of(name) for name, _ in studio.parameters()}
    known = {name for name in names if name.partition(".")[0] in networks}
    found = {name: networks[name.partition(".")[0]].get_submodule(name.partition(".")[2]) for name in known}
    return {name: layer for name, layer in found.items() if isinstance(_own(layer), nn.Linear | nn.Conv2d)}


def _own(layer: nn.Module) -> nn.Module:
    """A layer without the adapter around it."""
    return getattr(layer, "base_layer", layer)


def _rows(layer: nn.Module, given: Tensor) -> Tensor:
    """What the weights of a layer are multiplied with, `(n, inputs)`."""
    if isinstance(layer, nn.Conv2d):
        assert isinstance(layer.padding, tuple)
        windows = nn.functional.unfold(given, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # pyright: ignore
        return windows.transpose(1, 2).flatten(0, 1)
    return given.flatten(0, -2)
