"""Adapters of one layer agree with LyCORIS' functions, and with the equations of their papers, on the same numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import inject_adapter_in_model
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modalities.core.butterfly import Rotated
from modalities.core.components.dora import Dora
from modalities.core.components.lycoris import Lycoris
from modalities.core.components.oft import Oft

TOLD = json.loads((Path(__file__).parent / "lycoris.json").read_text())["runs"]


def values(*shape: int, phase: float = 0.0, scale: float = 0.1) -> Tensor:
    """Numbers that every machine computes alike."""
    return scale * torch.sin(torch.arange(math.prod(shape), dtype=torch.float32) * 0.7 + phase).reshape(shape)


def layer(config: Any = None) -> Any:
    """A network of one layer, `it`, with an adapter of PEFT around it if asked."""
    net: Any = nn.Sequential()
    net.add_module("it", nn.Linear(16, 12, bias=False))
    net.it.weight.data = values(12, 16, phase=0.1, scale=0.5)
    net.requires_grad_(False)
    return inject_adapter_in_model(config, net) if config else net


def agrees(net: nn.Module, learned: list[Tensor], told: dict[str, Any], *, of_generators: bool = False) -> None:
    """One step gives the recorded outputs, loss, gradients and loss after it.

    of_generators: LyCORIS learns Q's whole matrix and PEFT its upper half, of which a step is another one.
    """
    given, target = values(3, 16, phase=0.3, scale=1), values(3, 12, phase=0.9, scale=1)
    answer = net(given)
    loss = (answer - target).square().mean()
    assert answer[0].tolist() == pytest.approx(told["output"], rel=1e-5, abs=1e-6)
    assert float(loss.detach()) == pytest.approx(told["loss"], rel=1e-5)
    gradients = torch.autograd.grad(loss, learned)
    factor = math.sqrt(2) if of_generators else 1.0
    assert [factor * float(one.norm()) for one in gradients] == pytest.approx(told["gradient_norms"], rel=1e-5)
    if of_generators:
        return
    for value, gradient in zip(learned, gradients, strict=True):
        value.grad = gradient
    torch.optim.AdamW(learned, lr=1e-2, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8).step()
    assert float((net(given) - target).square().mean().detach()) == pytest.approx(told["loss_after"], rel=1e-5)


def filled(parameters: dict[str, Any], values: dict[str, Tensor]) -> list[Tensor]:
    """Give an adapter these values; return what learns, in their order."""
    for name, value in values.items():
        parameters[name]["default"].data = value
    return [parameters[name]["default"] for name in values]


def test_loha_is_lycoris() -> None:
    net = layer(Lycoris(kind="loha", rank=2).config(["it"]))
    names = {
        "hada_w1_b": values(2, 16, phase=1, scale=0.5),
        "hada_w1_a": values(12, 2, phase=2, scale=0.5),
        "hada_w2_b": values(2, 16, phase=3, scale=0.5),
        "hada_w2_a": values(12, 2, phase=4, scale=0.5),
    }
    agrees(net, filled({name: getattr(net.it, name) for name in names}, names), TOLD["loha"])


def test_lokr_is_lycoris() -> None:
    net = layer(Lycoris(kind="lokr", rank=1).config(["it"]))
    names = {
        "lokr_w1": values(3, 4, phase=1, scale=0.5),
        "lokr_w2_a": values(4, 1, phase=2, scale=0.5),
        "lokr_w2_b": values(1, 4, phase=3, scale=0.5),
    }
    agrees(net, filled({name: getattr(net.it, name) for name in names}, names), TOLD["lokr"])


def test_oft_is_lycoris_and_exactly_orthogonal() -> None:
    net = layer(Oft(block=4).config(["it"]))
    rotation: Any = net.it.oft_R["default"]
    whole = values(4, 4, 4, phase=1)
    skew = whole - whole.mT
    rotation.weight.data = skew[:, rotation.rows, rotation.cols]
    agrees(net, [rotation.weight], TOLD["oft"], of_generators=True)
    turned = rotation.get_weight()
    assert torch.allclose(turned @ turned.T, torch.eye(16), atol=1e-5)


def test_boft_is_lycoris() -> None:
    net = layer()
    rotated = Rotated(net.it.weight, block=4, factors=2)
    rotated.scale.requires_grad_(False)
    parametrize.register_parametrization(net.it, "weight", rotated)
    rotated.generators.data = values(2, 4, 4, 4, phase=1)
    agrees(net, [rotated.generators], TOLD["boft"])


def test_dora_is_equation_5_with_its_norm_held_in_the_gradient() -> None:
    net = layer(Dora(rank=2, alpha=3).config(["it"]))
    down, up = values(2, 16, phase=1, scale=0.5), values(12, 2, phase=2, scale=0.5)
    length = values(12, phase=3, scale=0.5) + 1
    net.it.lora_A["default"].weight.data, net.it.lora_B["default"].weight.data = down.clone(), up.clone()
    net.it.lora_magnitude_vector["default"].weight.data = length.clone()
    ours = [
        net.it.lora_A["default"].weight,
        net.it.lora_B["default"].weight,
        net.it.lora_magnitude_vector["default"].weight,
    ]
    theirs = [one.clone().requires_grad_() for one in (down, up, length)]
    changed = values(12, 16, phase=0.1, scale=0.5) + 1.5 * theirs[1] @ theirs[0]
    weight = theirs[2][:, None] * changed / changed.norm(dim=1, keepdim=True).detach()
    given, target = values(3, 16, phase=0.3, scale=1), values(3, 12, phase=0.9, scale=1)
    assert torch.allclose(net(given), given @ weight.T, rtol=1e-5, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad((net(given) - target).square().mean(), ours),
        torch.autograd.grad((given @ weight.T - target).square().mean(), theirs),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
