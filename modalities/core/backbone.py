"""One base model behind one face: the methods never learn which family they work on."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from modalities.core.errors import PcsError, did_you_mean
from modalities.core.schedule import Schedule

if TYPE_CHECKING:
    from modalities.core.recipe import Sample


@dataclass(frozen=True)
class Conditioning:
    """What prompts become for a denoiser: its keyword arguments, each with the batch as first axis."""

    tensors: dict[str, Tensor]

    def rows(self, index: Sequence[int]) -> Conditioning:
        """Return the given rows, in that order, repeats allowed."""
        if list(index) == list(range(len(next(iter(self.tensors.values()))))):
            return self
        return Conditioning({name: value[list(index)] for name, value in self.tensors.items()})


@dataclass(frozen=True)
class Posterior:
    """The autoencoder's Gaussian over latents: cached whole, so that every step draws a sample of its own.

    `mean` and `std` are `(B, C, h, w)`, of clips `(B, C, F, h, w)`, in the autoencoder's own units; a sample is in
    the denoiser's.
    """

    mean: Float[Tensor, "b c ..."]
    std: Float[Tensor, "b c ..."]
    shift: float
    scale: float

    def sample(self, normal: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Turn standard normal values into latents."""
        return (self.mean + self.std * normal - self.shift) * self.scale

    def rows(self, index: Sequence[int]) -> Posterior:
        """Return the given rows, repeats allowed."""
        return Posterior(self.mean[list(index)], self.std[list(index)], self.shift, self.scale)


class Backbone(ABC):
    """One base model: a denoiser, an autoencoder, text encoders with their tokenizers, and a schedule.

    A family is one file in `backbones/`, found by the pipeline class that its `model_index.json` names.
    """

    pipelines: ClassVar[tuple[str, ...]]
    """Pipeline classes of diffusers whose folders this family serves."""
    denoiser_part: ClassVar[str]
    """Name of the denoiser in the folder: "unet" or "transformer"."""
    load_options: ClassVar[dict[str, Any]] = {}
    """Keyword arguments for `from_pretrained`."""
    makes_clips: ClassVar[bool] = False
    """Whether it makes clips, and no pictures."""
    takes_negative_prompts: ClassVar[bool] = True
    """Whether its pictures can be led away from a prompt."""
    selectors: ClassVar[dict[str, str]]
    """Regular expressions over module names of the denoiser, by the name that recipes use."""

    def __init__(self, pipeline: Any, fingerprint: str, device: torch.device, schedule: Schedule) -> None:
        self._pipeline = pipeline
        self.fingerprint = fingerprint
        self.device = device
        self.schedule = schedule
        self._embedded: dict[tuple[str, ...], Conditioning] = {}
        self._text_is_base = False
        self.dtype: torch.dtype = self.vae.dtype
        for module in self.modules().values():
            module.requires_grad_(False).eval().to(device)
        for name, encoder in self.text_encoders.items():
            _end_at(encoder, self.tokenizers[name].eos_token_id)

    # -- its parts -------------------------------------------------------------------------------------------

    @property
    def denoiser(self) -> nn.Module:
        """The network that sees the noise."""
        return getattr(self._pipeline, self.denoiser_part)

    @property
    def vae(self) -> Any:
        """The autoencoder between pixels and latents."""
        return self._pipeline.vae

    @property
    def text_encoders(self) -> dict[str, Any]:
        """The text encoders by their name in the folder, those that are there."""
        return self._parts("text_encoder")

    @property
    def tokenizers(self) -> dict[str, Any]:
        """The tokenizers, by the name of the text encoder that each serves."""
        return {name.replace("tokenizer", "text_encoder"): part for name, part in self._parts("tokenizer").items()}

    def _parts(self, prefix: str) -> dict[str, Any]:
        parts: dict[str, Any] = self._pipeline.components
        return {name: part for name, part in parts.items() if name.startswith(prefix) and part is not None}

    def modules(self) -> dict[str, nn.Module]:
        """Every network by its name in the folder."""
        parts: dict[str, Any] = self._pipeline.components
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    # -- its shapes ------------------------------------------------------------------------------------------

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures that the base was trained on."""
        denoiser: Any = self.denoiser
        return int(denoiser.config.sample_size) * self.pixels_per_latent

    @property
    def pixels_per_latent(self) -> int:
        """Pixels a side for one latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def side_step(self) -> int:
        """Sides of pictures and clips are multiples of this many pixels."""
        # The pipelines of UNets want multiples of 8, however small the autoencoder is.
        return max(8, self.pixels_per_latent)

    def require_side(self, side: int) -> None:
        """Check the side of pictures or clips before anything is made of it.

        Raises:
            PcsError: the base cannot make them of that size; names the nearest that it can.
        """
        step = self.side_step
        if side % step:
            near = max(step, round(side / step) * step)
            raise PcsError(f"data.resolution={side}: this base takes multiples of {step} pixels; use {near}.")

    def require_sample(self, sample: Sample) -> None:
        """Check how pictures are to be drawn before any is.

        Raises:
            PcsError: the base cannot be asked so.
        """
        if sample.negative_prompt and not self.takes_negative_prompts:
            raise PcsError("sample.negative_prompt: this base takes none; leave it out.")

    @property
    def latent_channels(self) -> int:
        """Channels of its latents."""
        denoiser: Any = self.denoiser
        return int(denoiser.config.in_channels)

    # -- its verbs -------------------------------------------------------------------------------------------

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts, with gradients when a text encoder or a token learns."""

    @abstractmethod
    def predict(
        self, noisy: Float[Tensor, "b ..."], t: Num[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b ..."]:
        """Ask the denoiser; what the numbers mean is the schedule's business."""

    def time_told(self, args: tuple[Any, ...], given: dict[str, Any]) -> float:
        """The schedule's time of a call of the denoiser, from its arguments."""
        told = args[1] if len(args) > 1 else given["timestep"]
        return float(torch.as_tensor(told).flatten()[0])

    def last_hidden_states(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts as the bases with one CLIP text encoder do: what its last layer says at every place."""
        tokenizer, encoder = self.tokenizers["text_encoder"], self.text_encoders["text_encoder"]
        # A token of several vectors is spelled out, as the pipeline itself does.
        spelled = [self._pipeline.maybe_convert_prompt(prompt, tokenizer) for prompt in prompts]
        tokens = tokenizer(
            spelled,
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        )
        hidden = encoder(tokens.input_ids.to(self.device))[0]
        return Conditioning({"encoder_hidden_states": hidden})

    def conditioning(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts, each different one once; while no text encoder learns, once for good."""
        unique = tuple(dict.fromkeys(prompts))
        if self.text_learns and not self._text_is_base:
            embedded = self.embed(unique)
        else:
            if unique not in self._embedded:
                with torch.no_grad():
                    self._embedded[unique] = self.embed(unique)
            embedded = self._embedded[unique]
        return embedded.rows([unique.index(prompt) for prompt in prompts])

    @property
    def text_learns(self) -> bool:
        """Whether any weight or token on the text side takes gradients."""
        encoders: list[nn.Module] = list(self.text_encoders.values())
        return any(weight.requires_grad for encoder in encoders for weight in encoder.parameters())

    @contextmanager
    def base_text(self, memory: dict[tuple[str, ...], Conditioning]) -> Generator[None]:
        """While the text side holds the base's own weights: keep what is encoded in `memory`, for good."""
        previous, self._embedded, self._text_is_base = self._embedded, memory, True
        try:
            yield
        finally:
            self._embedded, self._text_is_base = previous, False

    def forget_text(self) -> None:
        """Drop the encoded prompts; to be called whenever weights on the text side have changed."""
        self._embedded.clear()

    def checkpoint_gradients(self, enabled: bool) -> None:
        """Compute the denoiser's activations twice instead of keeping them."""
        denoiser: Any = self.denoiser
        if enabled:
            denoiser.enable_gradient_checkpointing()
        else:
            denoiser.disable_gradient_checkpointing()

    def autocast(self) -> Any:
        """Mixed precision for one pass when frozen weights are 16-bit; what learns stays float32."""
        enabled = self.dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self.device.type, self.dtype if enabled else torch.bfloat16, enabled=enabled)

    def encode(self, pixels: Float[Tensor, "b 3 height width"]) -> Posterior:
        """Encode pictures in [0, 1] into the distribution of their latents."""
        vae = self.vae
        distribution = vae.encode((pixels * 2 - 1).to(self.device, vae.dtype)).latent_dist
        return Posterior(
            distribution.mean.float(),
            distribution.std.float(),
            float(getattr(vae.config, "shift_factor", None) or 0.0),
            float(vae.config.scaling_factor),
        )

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Decode latents into pictures in [0, 1]."""
        vae = self.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        raw = (latents / vae.config.scaling_factor + shift).to(vae.dtype)
        return (vae.decode(raw).sample.float() / 2 + 0.5).clamp(0, 1)

    def packed(self, latents: Float[Tensor, "b c h w"]) -> Tensor:
        """Latents as the denoiser and the pipeline's argument `latents` want them: as they are, unless it says more."""
        return latents

    def pipeline(self) -> Any:
        """The diffusers pipeline over the same modules, so that what has been learned is in it."""
        return self._pipeline

    # -- naming its modules ----------------------------------------------------------------------------------

    def select(self, layers: str) -> list[str]:
        """Return the names of the denoiser's linear and convolution layers that `layers` stands for.

        Args:
            layers: names of `selectors` joined by "+", or a regular expression after "re:".

        Raises:
            PcsError: a name is unknown, or nothing matches.
        """
        patterns = [layers.removeprefix("re:")] if layers.startswith("re:") else self._patterns(layers)
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        names = [
            # A layer that is tuned already goes by the name that it had before.
            name.removesuffix(".base_layer")
            for name, module in self.denoiser.named_modules()
            if isinstance(module, kinds) and ".lora_" not in name
        ]
        try:
            chosen = [name for name in names if any(re.search(pattern, name) for pattern in patterns)]
        except re.error as error:
            raise PcsError(f'layers "{layers}": is not a regular expression ({error}).') from error
        if not chosen:
            last = sorted({name.rpartition(".")[2] for name in names if name})
            raise PcsError(f'layers "{layers}" match no layer of this base; {did_you_mean(layers[3:], last)}')
        return chosen

    def _patterns(self, layers: str) -> list[str]:
        patterns: list[str] = []
        for name in layers.split("+"):
            if name not in self.selectors:
                raise PcsError(f'layers "{name}": unknown; {did_you_mean(name, self.selectors)}')
            patterns.append(self.selectors[name])
        return patterns

    def portable_lora(self, weights: dict[str, Tensor], scale: float) -> dict[str, dict[str, Tensor]]:
        """Return LoRA weights in the key layouts of other tools, `{layout: {key: tensor}}`.

        The diffusers layout has no dependable place for alpha, so `scale` is multiplied into B there.

        Args:
            weights: `unet.<module>.lora_A.weight` and `lora_B.weight`, text encoders alike.
            scale: alpha / rank.
        """
        return {"diffusers": {name: value * scale if ".lora_B." in name else value for name, value in weights.items()}}

    def portable_names(self, module: str) -> dict[str, str]:
        """What other tools call one of our modules, `{layout: name}`; none by default."""
        return {}

    def comfyui_deltas(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read a file of the ComfyUI layout as ComfyUI would: `{our module name: weight change}`."""
        raise NotImplementedError(f"{type(self).__name__} writes no ComfyUI layout of its own")

    @classmethod
    @abstractmethod
    def open(cls, pipeline: Any, fingerprint: str, device: torch.device) -> Backbone:
        """Wrap a loaded diffusers pipeline; `fingerprint` tells its weights from any others."""


def _end_at(encoder: nn.Module, end: int) -> None:
    """Let a CLIP text encoder pool where the text ends.

    Configurations older than transformers 4.30 say 2 for every CLIP, and the highest token is taken for the end, which
    a new word would be.
    """
    for part in encoder.modules():
        if getattr(part, "eos_token_id", None) == 2:
            part.eos_token_id = end  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
