"""The text encoder and the UNet of the base, trained together from scratch on cached latents and captions."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from modalities.mini.settings import DenoiserSettings
from modalities.mini.tokenizer import POSITIONS
from modalities.mini.training import step_noise, step_rng


@dataclass(frozen=True)
class LatentSet:
    """What the denoiser learns from.

    latents: (N, 4, H, W) float16. tokens: (N, C, POSITIONS) int16, C captions of each.
    empty: (POSITIONS,) int16, the tokens of no caption.
    """

    latents: np.ndarray
    tokens: np.ndarray
    empty: np.ndarray


def new_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModel:
    """An untrained CLIP text encoder for `tokenizer`."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 32),
        max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def new_unet(channels: tuple[int, int, int], head_width: int, text_width: int, size: int) -> UNet2DConditionModel:
    """An untrained UNet with attention at its two lower levels.

    Its attention projects linearly, as UNet3DConditionModel does, so that a video net can load every tensor.
    """
    return UNet2DConditionModel(
        sample_size=size,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=text_width,
        # UNet2DConditionModel reads this as the number of heads, UNet3DConditionModel as the width of one.
        attention_head_dim=tuple(width // head_width for width in channels),
        use_linear_projection=True,
    )


def new_scheduler(prediction: str) -> DDIMScheduler:
    """The noise schedule of Stable Diffusion, sampled so that the first step starts from pure noise."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
        timestep_spacing="trailing",
    )


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """Token ids (len(texts), POSITIONS) int16, padded as Stable Diffusion pads."""
    padded = tokenizer(texts, padding="max_length", max_length=POSITIONS, truncation=True)
    return np.array(padded.input_ids, np.int16)


class DenoiserTask:
    """Batches and loss of the denoiser; `module` holds both networks."""

    def __init__(
        self,
        text_encoder: CLIPTextModel,
        unet: UNet2DConditionModel,
        examples: LatentSet,
        settings: DenoiserSettings,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module = nn.ModuleDict({"text_encoder": text_encoder, "unet": unet}).to(device)
        self.examples, self.settings, self.device, self._seed = examples, settings, device, seed
        self._clean_share = new_scheduler(settings.prediction).alphas_cumprod.to(device)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and noise (B, 4, H, W), timesteps (B,) and token ids (B, POSITIONS) of one step."""
        settings, examples, rng = self.settings, self.examples, step_rng(self._seed, step)
        count = settings.batch
        chosen = rng.integers(len(examples.latents), size=count)
        tokens = examples.tokens[chosen, rng.integers(examples.tokens.shape[1], size=count)]
        tokens[rng.random(count) < settings.caption_dropout] = examples.empty
        # One timestep out of each of `count` equal parts: less noise in the loss than independent draws.
        spread = rng.permutation((np.arange(count) + rng.random(count)) / count)
        timesteps = torch.from_numpy((spread * len(self._clean_share)).astype(np.int64))
        latents = torch.from_numpy(examples.latents[chosen]).float()
        noise = torch.randn(latents.shape, generator=step_noise(self._seed, step))
        ids = torch.from_numpy(tokens.astype(np.int64))
        return tuple(part.to(self.device) for part in (latents, noise, timesteps, ids))

    def loss(self, step: int) -> Tensor:
        """Weighted squared error of the prediction (Min-SNR, Hang et al. 2023, arXiv:2303.09556)."""
        latents, noise, timesteps, ids = self.batch(step)
        share = self._clean_share[timesteps].view(-1, 1, 1, 1)
        noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
        with torch.autocast(self.device.type, torch.bfloat16):
            words = self.module["text_encoder"](ids).last_hidden_state
            predicted = self.module["unet"](noisy, timesteps, words).sample
        snr = (share / (1 - share)).flatten()
        limited = snr.clamp(max=self.settings.snr_limit)
        if self.settings.prediction == "v_prediction":
            target, weight = share.sqrt() * noise - (1 - share).sqrt() * latents, limited / (snr + 1)
        else:
            target, weight = noise, limited / snr
        return (weight * (predicted.float() - target).square().mean(dim=(1, 2, 3))).mean()
