"""The networks that look at results: an image encoder for likeness, a text-image encoder for prompts.

The embedded ones work offline; any transformers folder or Hub id (DINOv2, CLIP, SigLIP) can take their place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

import modalities
from modalities.core.bases import only_cached, quiet
from modalities.core.errors import PcsError
from modalities.core.media import square

EMBEDDED = Path(modalities.__file__).parent / "mini" / "weights"
SUBJECT_ENCODER = str(EMBEDDED / "subject_encoder")
CLIP = str(EMBEDDED / "clip")


class ImageEncoder:
    """Pictures to unit vectors."""

    def __init__(self, source: str, device: torch.device, *, offline: bool = False) -> None:
        """Load a transformers model that sees pictures.

        Raises:
            PcsError: the folder or Hub id cannot be loaded.
        """
        self.source = source
        self.device = device
        self._model, self._processor = _load(source, ("AutoModel", "AutoImageProcessor"), device, offline)

    @property
    def side(self) -> int:
        """Pixels a side that the encoder sees of a picture."""
        size = getattr(self._processor, "crop_size", None) or self._processor.size
        return int(min(value for value in dict(size).values() if value))

    def __call__(self, images: list[Image.Image]) -> Float[Tensor, "n width"]:
        """Return one unit vector for each RGB picture, on the CPU."""
        inputs = self._processor(images=images, return_tensors="pt").to(self.device)
        with torch.no_grad():
            if hasattr(self._model, "get_image_features"):
                found = self._model.get_image_features(**inputs)
            else:
                found = self._model(**inputs)
        return torch.nn.functional.normalize(_pooled(found), dim=1)


class TextImageEncoder(ImageEncoder):
    """Pictures and prompts to unit vectors of one space (CLIP and its kin)."""

    def __init__(self, source: str, device: torch.device, *, offline: bool = False) -> None:
        super().__init__(source, device, offline=offline)
        (self._tokenizer,) = _load(source, ("AutoTokenizer",), device, offline)

    def text(self, prompts: list[str]) -> Float[Tensor, "n width"]:
        """Return one unit vector for each prompt, on the CPU."""
        tokens = self._tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").to(self.device)
        tokens.pop("token_type_ids", None)
        with torch.no_grad():
            found = self._model.get_text_features(**tokens)
        return torch.nn.functional.normalize(_pooled(found), dim=1)


class Thumbnails:
    """Pictures to what is left of them at 16 by 16 pixels; the cosine of two is how far their layouts correlate."""

    source = "16x16 pixels"
    side = 16

    def __call__(self, images: list[Image.Image]) -> Float[Tensor, "n width"]:
        """Return one unit vector for each RGB picture: its centre square in colour, without its mean colour."""
        pixels = torch.stack([square(image, self.side) for image in images])
        return torch.nn.functional.normalize((pixels - pixels.mean((2, 3), keepdim=True)).flatten(1), dim=1)

    def mirrored(self, features: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        """The vectors of the mirrored pictures."""
        return features.unflatten(1, (3, self.side, self.side)).flip(3).flatten(1)


def _pooled(found: Any) -> Tensor:
    """Take the one vector for each input out of whatever a model returns."""
    if isinstance(found, Tensor):
        return found.flatten(1).float().cpu()
    pooled = getattr(found, "pooler_output", None)
    if pooled is None:
        pooled = found.last_hidden_state[:, 0]
    return pooled.flatten(1).float().cpu()


def _load(source: str, kinds: tuple[str, ...], device: torch.device, offline: bool) -> list[Any]:
    import transformers

    local = Path(source).is_dir()
    if not local and (source.count("/") != 1 or source.startswith((".", "/"))):
        raise PcsError(f"encoder {source}: there is no such folder, and it is no Hub id.")
    loaded: list[Any] = []
    cached_only = local or only_cached(offline)
    try:
        with quiet():
            for kind in kinds:
                # A pickle can run anything, so none is opened.
                weights = {"use_safetensors": True} if kind.endswith("Model") else {}
                part = getattr(transformers, kind).from_pretrained(source, local_files_only=cached_only, **weights)
                loaded.append(part.to(device).eval() if hasattr(part, "eval") else part)
    except (OSError, ValueError, KeyError) as error:
        raise PcsError(f"encoder {source}: cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    return loaded
