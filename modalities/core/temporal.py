"""The temporal layers of a video UNet, which mix its frames, and the net without them."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn


def temporal_layers(unet: nn.Module) -> list[nn.Module]:
    """All layers of a UNet3DConditionModel or a UNetMotionModel through which frames see each other."""
    kinds = TemporalConvLayer | TransformerTemporalModel | AnimateDiffTransformer3D
    return [layer for layer in unet.modules() if isinstance(layer, kinds)]


@contextmanager
def bypassed(unet: nn.Module) -> Generator[None]:
    """Inside, temporal layers pass on what they get: every frame is drawn as by an image UNet."""
    layers: list[Any] = [*temporal_layers(unet)]
    own = [layer.__dict__.get("forward") for layer in layers]
    # A transformer of a UNet3DConditionModel is asked for a tuple, all others for a tensor.
    passing = [_in_a_tuple if isinstance(layer, TransformerTemporalModel) else _as_it_is for layer in layers]
    for layer, pass_on in zip(layers, passing, strict=True):
        layer.forward = pass_on
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _as_it_is(hidden_states: Tensor, *_given: Any, **_named: Any) -> Tensor:
    return hidden_states


def _in_a_tuple(hidden_states: Tensor, *_given: Any, **_named: Any) -> tuple[Tensor]:
    return (hidden_states,)
