"""Named LoRAs beside each other in one network, each on or off from pass to pass."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from modalities.core.peft_layers import learned, set_active, switched, tuned_layers
from modalities.video.learner import Learner

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn import Parameter

    from modalities.core.studio import Studio

TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj"]


class Adapter(Learner):
    """A LoRA (Hu et al., ICLR 2022, https://arxiv.org/abs/2106.09685) with a name, a source and passes of its own.

    It is out of the network but in the passes of `present` and while sampling; an adapter that is not `kept` is dropped
    after training.
    """

    rank: Annotated[int, Field(gt=0)] = 32
    alpha: Annotated[float, Field(gt=0)] | None = None
    """None means the rank, so that the scale is 1."""
    layers: str
    """Which layers of the denoiser: names of its selectors joined by "+", or "re:" and a regular expression."""
    blocks: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Only the layers in these blocks of the denoiser, counted from 0 from its input to its output; None means all."""
    text_encoder: Annotated[int, Field(ge=0)] = 0
    """Rank on the attention of the text encoders; 0 leaves them alone."""

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        if not (studio.training or self.kept):
            return
        layers = self.backbone.select_in(self.layers, self.blocks)
        for slot in self.slots():
            for denoiser in self.backbone.denoisers().values():
                self._add(denoiser, slot, self.rank, layers)
            for encoder in self._text_encoders().values():
                self._add(encoder, slot, self.text_encoder, TEXT_LAYERS)

    def slots(self) -> tuple[str, ...]:
        """Names of its LoRAs; most have one."""
        return (self.name,)

    def slots_for(self, clip: int) -> tuple[str, ...]:
        """Which of them are on in a pass over a clip, or over photos."""
        return self.slots()

    @property
    def scale(self) -> float:
        """Factor on the low-rank product, alpha / rank."""
        return (self.alpha or self.rank) / self.rank

    def _text_encoders(self) -> dict[str, nn.Module]:
        return self.studio.backbone.text_encoders if self.text_encoder else {}

    def networks(self) -> dict[str, nn.Module]:
        """The networks that it changes, by their name in the folder."""
        return self.backbone.denoisers() | self._text_encoders()

    def _add(self, network: nn.Module, slot: str, rank: int, layers: list[str]) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=rank, lora_alpha=rank * self.scale, init_lora_weights="gaussian", target_modules=layers)  # pyright: ignore
        with warnings.catch_warnings():
            # PEFT warns of a second adapter in one network, which is the very point here.
            warnings.simplefilter("ignore")
            inject_adapter_in_model(config, network, adapter_name=slot)
        for layer in tuned_layers(network).values():
            set_active(layer, [])

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<module>.lora_A.weight` (rank, in) and `lora_B.weight` (out, rank), text encoders alike.

        With several LoRAs each name begins with that of its own.
        """
        if not (self.studio.training or self.kept):
            return {}
        slots, networks = self.slots(), self.networks()
        return {
            f"{'' if len(slots) == 1 else slot + '/'}{part}.{name}": value
            for slot in slots
            for part, network in networks.items()
            for name, value in learned(network, slot).items()
        }

    def portable(self) -> dict[str, Tensor]:
        """The scale is multiplied into B, as other tools expect it."""
        found = super().portable()
        return {name: value * self.scale if ".lora_B." in name else value for name, value in found.items()}

    def told(self) -> dict[str, object]:
        return {"rank": self.rank, "layers": self.layers}

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        """Put it into the network, with its weight."""
        if not self.kept:
            yield
            return
        layers = [layer for network in self.networks().values() for layer in tuned_layers(network).values()]
        mine = [(layer, list(layer.active_adapters)) for layer in layers if self.name in layer.scaling]
        try:
            for layer, active in mine:
                set_active(layer, [*active, self.name])
                layer.scaling[self.name] = self.scale * self.weight
            yield
        finally:
            for layer, active in mine:
                set_active(layer, active)
                layer.scaling[self.name] = self.scale


@contextmanager
def present(networks: Iterable[nn.Module], adapters: Sequence[str]) -> Generator[None]:
    """Inside, the named LoRAs are on and all others off; with none on, the networks are the base bit for bit."""
    with switched(networks, lambda layer: [name for name in adapters if name in layer.scaling]):
        yield
