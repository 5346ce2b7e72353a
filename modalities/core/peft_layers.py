"""What all components that stand on PEFT share: the names of what they learn, and folding it while sampling."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from modalities.core.component import Component
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn import Parameter

    from modalities.core.studio import Studio

ADAPTER = "default"
ADAPTS = "adapt the denoiser's layers through PEFT"


def tuned_layers(module: nn.Module) -> dict[str, Any]:
    """All PEFT layers of a network, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}


def learned(module: nn.Module, adapter: str = ADAPTER) -> dict[str, Parameter]:
    """What one adapter of a network learns, `<layer>.<tensor>`; the adapter's own name is left out."""
    return {
        f"{name}.{key.replace(f'.{adapter}', '')}": value
        for name, layer in tuned_layers(module).items()
        for key, value in layer.named_parameters()
        if f".{adapter}." in f"{key}." and key.partition(".")[0] in layer.adapter_layer_names
    }


def bare_layer(module: nn.Module, name: str, component: str) -> nn.Module:
    """The layer of that name, for a component that replaces its weight.

    Raises:
        PcsError: another component changes it already.
    """
    from torch.nn.utils import parametrize

    layer = module.get_submodule(name)
    if name in tuned_layers(module) or parametrize.is_parametrized(layer):
        raise PcsError(f"{component}: another component changes the layer {name} already; choose other layers.")
    return layer


def require_plain(module: nn.Module, names: Iterable[str], component: str) -> None:
    """Check that no other component computes the weights of layers that PEFT is to wrap, for it could not fold them.

    Raises:
        PcsError: one does.
    """
    from torch.nn.utils import parametrize

    for name in names:
        if parametrize.is_parametrized(module.get_submodule(name)):
            raise PcsError(f"{component}: another component changes the layer {name} already; choose other layers.")


@contextmanager
def switched(modules: Iterable[nn.Module], chosen: Callable[[Any], list[str]]) -> Generator[None]:
    """Inside, those adapters of each PEFT layer are on that `chosen` tells for it."""
    layers = [layer for module in modules for layer in tuned_layers(module).values()]
    before = [list(layer.active_adapters) for layer in layers]
    try:
        for layer in layers:
            set_active(layer, chosen(layer))
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            set_active(layer, active)


def set_active(layer: Any, adapters: list[str]) -> None:
    """Turn on the named adapters of a PEFT layer, and all others off."""
    # PEFT's own `set_adapter` would also decide what learns, which is the trainer's business.
    layer._active_adapter = adapters


@contextmanager
def folded(
    modules: Iterable[nn.Module], *, apart: str | None = None
) -> Generator[Callable[[], AbstractContextManager[None]]]:
    """Fold all PEFT layers into the weights, and restore those bit for bit; 16-bit weights would round them away.

    Yields a block inside which the adapter `apart` is not there: weights with and without it are kept, to be swapped.
    """
    import torch

    def others(layer: Any) -> list[str]:
        return [name for name in layer.active_adapters if name != apart]

    networks = list(modules)
    layers = [layer for network in networks for layer in tuned_layers(network).values()]
    if any(layer.get_base_layer().weight.dtype != torch.float32 for layer in layers):
        layers = []
    own = [layer.get_base_layer().weight.data for layer in layers]

    def merge() -> list[Tensor]:
        for layer, weight in zip(layers, own, strict=True):
            layer.merged_adapters.clear()
            layer.get_base_layer().weight.data = weight.clone()
            layer.merge()
        return [layer.get_base_layer().weight.data for layer in layers]

    def put(weights: list[Tensor]) -> None:
        for layer, weight in zip(layers, weights, strict=True):
            layer.get_base_layer().weight.data = weight

    @contextmanager
    def without() -> Generator[None]:
        with switched(networks, others):
            put(rest)
            try:
                yield
            finally:
                put(whole)

    try:
        rest: list[Tensor] = []
        if apart:
            with switched(networks, others):
                rest = merge()
        whole = merge()
        yield without
    finally:
        put(own)
        for layer in layers:
            layer.merged_adapters.clear()


def weight_changes(module: nn.Module) -> dict[str, Tensor]:
    """What adapters and parametrizations of a network add to each layer's own weight, float32, on the CPU."""
    import torch
    from torch.nn.utils import parametrize

    changes: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, layer in tuned_layers(module).items():
            inner = layer.get_base_layer()
            own = inner.weight.data
            try:
                inner.weight.data = own.float().clone()
                layer.merge()
                changes[name] = (inner.weight.data - own.float()).cpu()
            finally:
                inner.weight.data = own
                layer.merged_adapters.clear()
        for name, layer in module.named_modules():
            if parametrize.is_parametrized(layer, "weight"):
                held: Any = layer.parametrizations
                changes[name] = (layer.weight.float() - held.weight.original.float()).cpu()  # pyright: ignore
    return changes


class PeftComponent(Component):
    """A component that tunes layers of the denoiser by one of PEFT's methods, which `config` chooses."""

    exclusive: ClassVar[str | None] = ADAPTS

    layers: str = "attention"
    """Which layers of the denoiser, as `lora` takes them."""

    def config(self, layers: list[str]) -> Any:
        """The PEFT configuration with these target modules."""
        raise NotImplementedError

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        backbone = studio.backbone
        names = backbone.select(self.layers)
        require_plain(backbone.denoiser, names, self.name)
        backbone.denoiser.add_adapter(self.config(names), adapter_name=ADAPTER)  # pyright: ignore

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<layer>.<factor>`, the factors as PEFT names them."""
        backbone = self.studio.backbone
        return {f"{backbone.denoiser_part}.{name}": value for name, value in learned(backbone.denoiser).items()}

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        """Fold the change into the weights while generating."""
        with folded([self.studio.backbone.denoiser]):
            yield
