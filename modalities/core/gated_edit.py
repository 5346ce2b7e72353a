"""The arithmetic of Perfusion (Tewel et al., 2023, equations 4 and 5) on the cross-attention of a base."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from modalities.core.components.rank_one_edit import RankOneEdit
    from modalities.core.studio import Studio

# Prompts whose encodings say which directions text takes in general.
COMMON_WORDS = 1000
RIDGE = 1e-3


class Edits:
    """Edits of every key and value projection, gated by how much an encoding is like the word's.

    With sim(e) = i* C^-1 e / i* C^-1 i*, where C is the uncentred covariance of encodings, a projection W gives
    W (e - sim(e) i*) + sigmoid((sim(e) - beta) / tau) o*.

    Raises:
        PcsError: the base has several text encoders, or no cross-attention.
    """

    def __init__(self, studio: Studio, words: list[str], settings: RankOneEdit) -> None:
        backbone = studio.backbone
        if len(backbone.text_encoders) != 1:
            raise PcsError("rank_one_edit: needs a base with one text encoder.")
        ((name, self._encoder),) = backbone.text_encoders.items()
        self._tokenizer, self._settings = backbone.tokenizers[name], settings
        key = (backbone.fingerprint, "text covariance")
        self._inverse = studio.cache.remember("covariance", key, self._covariance)["inverse"].to(backbone.device)
        self._word = f"a photo of a {' '.join(words)}"
        kind = self._encoding(f"a photo of a {studio.concept.noun}")
        self.direction = Parameter(self._encoding(self._word))
        self._outputs: dict[str, Parameter] = {}
        for path, layer in backbone.denoiser.named_modules():
            if not re.search(r"attn2\.to_[kv]$", path):
                continue
            assert isinstance(layer, nn.Linear)
            output = layer.weight.detach().float() @ kind
            is_key = path.endswith("to_k")
            if not (is_key and settings.lock_keys):
                output = Parameter(output)
                self._outputs[f"{'keys' if is_key else 'values'}.{path}"] = output
            layer.register_forward_hook(self._edited(output))
        if not self._outputs:
            raise PcsError("rank_one_edit: the base has no cross-attention to edit.")

    def parameters(self) -> dict[str, Parameter]:
        """What is learned, and the direction."""
        return {"direction": self.direction, **self._outputs}

    def follow(self, decay: float) -> None:
        """Move the direction towards what the text encoder makes of the word now."""
        self.direction.data.lerp_(self._encoding(self._word), 1 - decay)

    def _edited(self, output: Tensor) -> Callable[..., Tensor]:
        def hook(layer: nn.Linear, args: tuple[Tensor, ...], given: Tensor) -> Tensor:
            direction = self.direction.detach()
            reader = self._inverse @ direction
            like = (args[0].float() @ (reader / (reader @ direction)))[..., None]
            gate = torch.sigmoid((like - self._settings.beta) / self._settings.tau)
            own = layer.weight.detach().float() @ direction
            return (given.float() - like * own + gate * output).to(given.dtype)

        return hook

    def _encoding(self, prompt: str) -> Tensor:
        """What the text encoder makes of the last word of a prompt, `(width,)` float32."""
        tokens = self._tokenizer(prompt, return_tensors="pt").to(self._encoder.device)
        with torch.no_grad():
            # The end of the text stands behind the last word.
            return self._encoder(tokens.input_ids)[0][0, -2].float()

    def _covariance(self) -> dict[str, Tensor]:
        """The inverse of the uncentred covariance of encodings, over prompts with common words of the vocabulary."""
        known: dict[str, Any] = self._tokenizer.get_vocab()
        listed = sorted(known, key=known.__getitem__)
        plain = [word.removesuffix("</w>") for word in listed if re.fullmatch(r"[a-z]{3,}</w>", word)]
        rows: list[Tensor] = []
        for word in plain[:: max(1, len(plain) // COMMON_WORDS)]:
            tokens = self._tokenizer(f"a photo of a {word}", return_tensors="pt").to(self._encoder.device)
            with torch.no_grad():
                rows.append(self._encoder(tokens.input_ids)[0][0, 1:].float())
        seen = torch.cat(rows)
        covariance = seen.T @ seen / len(seen)
        ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), device=covariance.device)
        return {"inverse": torch.linalg.inv(covariance + ridge).cpu().contiguous()}
