"""The temporal layers of a video UNet, which mix its frames, and the net without them."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn


def temporal_layers(unet: nn.Module) -> list[nn.Module]:
    """All layers of a UNet3DConditionModel through which frames see each other."""
    return [layer for layer in unet.modules() if isinstance(layer, TemporalConvLayer | TransformerTemporalModel)]


@contextmanager
def bypassed(unet: nn.Module) -> Generator[None]:
    """Inside, temporal layers pass on what they get: every frame is drawn as by an image UNet."""

    def pass_on(layer: nn.Module, given: tuple[Any, ...], _result: Any) -> Tensor | tuple[Tensor]:
        # A transformer was asked for a tuple, a convolution for a tensor.
        return (given[0],) if isinstance(layer, TransformerTemporalModel) else given[0]

    hooks = [layer.register_forward_hook(pass_on) for layer in temporal_layers(unet)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
