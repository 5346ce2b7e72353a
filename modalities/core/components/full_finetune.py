"""Fine-tuning of all weights, as DreamBooth does it (Ruiz et al., CVPR 2023, section 3.1).

https://arxiv.org/abs/2208.12242
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalities.core.component import Component

if TYPE_CHECKING:
    from torch.nn import Module, Parameter

    from modalities.core.studio import Studio


class FullFinetune(Component):
    """Lets the denoiser's own weights learn, and the text encoders' if asked; all of them, or some layers."""

    layers: str = "all"
    """"all", or a selection of the denoiser's layers as `lora` takes it."""
    text_encoder: bool = False
    """Also train the text encoders, as the paper does; needs more memory and forgets faster."""

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        for module in self._modules().values():
            module.float()

    def _modules(self) -> dict[str, Module]:
        backbone = self.studio.backbone
        part = backbone.denoiser_part
        denoiser = backbone.denoiser
        if self.layers == "all":
            modules = {part: denoiser}
        else:
            modules = {f"{part}.{name}": denoiser.get_submodule(name) for name in backbone.select(self.layers)}
        return modules | (backbone.text_encoders if self.text_encoder else {})

    def parameters(self) -> dict[str, Parameter]:
        """`unet.<parameter>` and `text_encoder.<parameter>`, as the base names them; new words learn on their own."""
        from modalities.core.vocabulary import new_words

        modules = self._modules()
        new = {id(rows) for module in modules.values() for rows in new_words(module)}
        return {
            f"{prefix}.{name}": value
            for prefix, module in modules.items()
            for name, value in module.named_parameters()
            if id(value) not in new
        }
