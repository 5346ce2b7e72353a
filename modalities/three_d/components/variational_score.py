"""Variational score distillation (ProlificDreamer: Wang et al., NeurIPS 2023, eq. 9 and algorithm 1).

https://arxiv.org/abs/2305.16213. A low-rank adapter learns what renders of the scene look like; what it sees is what
the guided base is compared with. It knows the camera by the words for its view.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PrivateAttr

from modalities.three_d.part import ScorePart

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn import Parameter

    from modalities.core.step import Batch, Step
    from modalities.core.studio import Studio


class VariationalScore(ScorePart):
    """A further adapter beside those that know the subject; guidance may be small (7.5)."""

    rank: Annotated[int, Field(gt=0)] = 4
    layers: str = "attention"
    """Which linear layers of the denoiser, as the component `lora` takes them."""

    _factors: dict[str, Parameter] = PrivateAttr(default_factory=dict)
    _is_on: bool = PrivateAttr(default=False)

    def prepare(self, studio: Studio) -> None:
        """Hook on to the layers; not PEFT's way, since its adapters may be folded into the weights meanwhile."""
        from torch import nn

        super().prepare(studio)
        denoiser = studio.backbone.denoiser
        for name in studio.backbone.select(self.layers):
            layer = denoiser.get_submodule(name)
            layer = layer if isinstance(layer, nn.Linear) else getattr(layer, "base_layer", None)
            if isinstance(layer, nn.Linear):
                self._adapt(name, layer)

    def _adapt(self, name: str, layer: nn.Linear) -> None:
        import torch

        device = layer.weight.device
        down = torch.randn(self.rank, layer.in_features).to(device) / self.rank
        up = torch.zeros(layer.out_features, self.rank, device=device)
        self._factors[f"{name}.down"], self._factors[f"{name}.up"] = map(torch.nn.Parameter, (down, up))

        def added(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self._is_on:
                return output
            down, up = self._factors[f"{name}.down"], self._factors[f"{name}.up"]
            return output + (inputs[0].float() @ down.T @ up.T).to(output.dtype)

        layer.register_forward_hook(added)

    def parameters(self) -> dict[str, Parameter]:
        """`<layer>.down` (rank, in) and `<layer>.up` (out, rank)."""
        return dict(self._factors)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Inside the block the denoiser answers with the adapter."""
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def reference(self, batch: Batch) -> Tensor | None:
        """What the adapter sees in the same noisy latents."""
        import torch

        backbone = self.studio.backbone
        with torch.no_grad(), self.in_place():
            noisy = backbone.schedule.noised(batch.latents, batch.noise, batch.t)
            seen = backbone.predict(noisy, batch.t, backbone.conditioning(batch.prompts))
            return backbone.schedule.clean(noisy, seen.float(), batch.t)

    def loss(self, step: Step, batch: Batch) -> Tensor | None:
        """The denoising loss of the adapter on what was rendered, at other noise and times; none to the scene."""
        from dataclasses import replace

        import torch

        from modalities.core.step import denoise

        if not next(iter(self._factors.values())).requires_grad:
            return None
        count = len(dict.fromkeys(batch.positions))
        items, draws, schedule = batch.part(0, count), self.studio.draws, self.studio.backbone.schedule
        device, latents = items.latents.device, items.latents.detach()
        chance = torch.tensor([draws.chance("adapter time", at) for at in items.positions])
        fresh = replace(
            items,
            latents=latents,
            noise=draws.normal("adapter noise", items.positions, latents.shape[1:]).to(device),
            t=schedule.timesteps(chance).to(device),
        )
        with self.in_place():
            return denoise(self.studio.backbone, fresh).error.mean()
