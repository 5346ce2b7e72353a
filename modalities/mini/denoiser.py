"""The text encoder and the UNet of the base, trained together from scratch on cached latents and captions."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, UNet3DConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from modalities.mini import team
from modalities.mini.precision import mixed_precision
from modalities.mini.settings import DenoiserSettings, VideoSettings
from modalities.mini.tokenizer import POSITIONS
from modalities.mini.training import step_noise, step_rng


@dataclass(frozen=True)
class LatentSet:
    """Pictures or clips that a denoiser learns from.

    latents: (N, 4, H, W) float16, of clips (N, F, 4, H, W). tokens: (N, C, POSITIONS) int16, C captions of each.
    share: of each batch.
    """

    latents: np.ndarray
    tokens: np.ndarray
    share: float = 1.0

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`count` of them, each with one of its captions."""
        chosen = rng.integers(len(self.latents), size=count)
        return self.latents[chosen], self.tokens[chosen, rng.integers(self.tokens.shape[1], size=count)]


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


def with_words(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, worded: CLIPTokenizer) -> CLIPTextModel:
    """A copy of `text_encoder` for `worded`, which has tokens that `tokenizer` has not; nothing else in it learns.

    The embedding (1, width) of each begins as the mean of the pieces into which the word fell before, and learns as in
    Textual Inversion (Gal et al. 2022, arXiv:2208.01618); gradients of all other rows are zero.
    """
    copied = copy.deepcopy(text_encoder).requires_grad_(False)
    before = len(tokenizer)
    copied.resize_token_embeddings(len(worded), mean_resizing=False)
    rows = copied.get_input_embeddings().weight
    with torch.no_grad():
        for token in range(before, len(worded)):
            pieces = tokenizer(worded.convert_ids_to_tokens(token), add_special_tokens=False).input_ids
            rows[token] = rows[pieces].mean(0)
    is_new = torch.arange(len(worded)).unsqueeze(1) >= before
    rows.requires_grad_(True)
    rows.register_hook(lambda gradient: gradient * is_new.to(gradient.device))
    return copied


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


def new_video_unet(unet: UNet2DConditionModel) -> UNet3DConditionModel:
    """A video UNet that shares every tensor of `unet`, frozen; its temporal layers, which learn, begin as identities.

    They do not drop out: such a small net never learns its clips by heart. What the image UNet draws of one frame,
    this net draws of every frame of a clip, until its temporal layers learn.
    """
    config = unet.config
    heads = {width // count for width, count in zip(config.block_out_channels, config.attention_head_dim, strict=True)}
    video = UNet3DConditionModel(
        sample_size=config.sample_size,
        down_block_types=tuple(name.replace("2D", "3D") for name in config.down_block_types),
        up_block_types=tuple(name.replace("2D", "3D") for name in config.up_block_types),
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups,
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=heads.pop(),
    )
    shared = unet.state_dict()
    video.load_state_dict(shared, strict=False)
    for name, parameter in video.named_parameters():
        parameter.requires_grad_(name not in shared)
    for layer in video.modules():
        if isinstance(layer, TransformerTemporalModel):
            nn.init.zeros_(layer.proj_out.weight)
            nn.init.zeros_(layer.proj_out.bias)
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return video


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
    """Batches and loss of a denoiser, of pictures or of clips.

    networks: "text_encoder" and "unet". examples: where batches come from; the first fills up what the shares of
    the others leave.
    empty: (POSITIONS,) int16, the tokens of no caption.
    clips: how to learn from clips: times drawn towards noise (Esser et al. 2024, arXiv:2403.03206, eq. 23) and weighed
    alike, instead of evenly with Min-SNR weights, for what moves where is decided in noise that these all but ignore.
    """

    def __init__(
        self,
        networks: nn.ModuleDict,
        examples: Sequence[LatentSet],
        empty: np.ndarray,
        settings: DenoiserSettings,
        batch: int,
        seed: int,
        device: torch.device,
        clips: VideoSettings | None = None,
    ) -> None:
        self._networks, self._clips = networks.to(device), clips
        self.settings, self.device, self._seed, self._batch = settings, device, seed, batch
        self._examples, self._empty = examples, empty
        self._clean_share = new_scheduler(settings.prediction).alphas_cumprod.to(device)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and noise (B, 4, H, W), of clips (B, 4, F, H, W), timesteps (B,), token ids (B, POSITIONS)."""
        rng, count = step_rng(self._seed, step), self._batch
        first, *others = self._examples
        counts = [round(other.share * count) for other in others]
        drawn = [first.draw(count - sum(counts), rng)]
        drawn += [other.draw(share, rng) for other, share in zip(others, counts, strict=True)]
        latents, tokens = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        tokens[rng.random(count) < self.settings.caption_dropout] = self._empty
        # One timestep out of each of `count` equal parts: less noise in the loss than independent draws.
        spread = rng.permutation((np.arange(count) + rng.random(count)) / count)
        if self._clips is not None:
            spread = self._clips.noise_shift * spread / (1 + (self._clips.noise_shift - 1) * spread)
        timesteps = torch.from_numpy((spread * len(self._clean_share)).astype(np.int64))
        clean = torch.from_numpy(latents).float()
        clean = clean.transpose(1, 2).contiguous() if clean.ndim == 5 else clean
        noise = torch.randn(clean.shape, generator=step_noise(self._seed, step))
        ids = torch.from_numpy(tokens.astype(np.int64))
        return tuple(team.mine(part).to(self.device) for part in (clean, noise, timesteps, ids))

    def loss(self, step: int) -> Tensor:
        """Squared error of the prediction, weighted by Min-SNR (Hang et al. 2023, arXiv:2303.09556) or not at all."""
        latents, noise, timesteps, ids = self.batch(step)
        share = self._clean_share[timesteps].view(-1, *[1] * (latents.ndim - 1))
        noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
        # Over so few places, attention written out takes less time than the fused kernels.
        with mixed_precision(self.device), sdpa_kernel(SDPBackend.MATH):
            words = self._networks["text_encoder"](ids).last_hidden_state
            predicted = self._networks["unet"](noisy, timesteps, words).sample
        snr = (share / (1 - share)).flatten()
        limited = snr.clamp(max=self.settings.snr_limit)
        if self.settings.prediction == "v_prediction":
            target, weight = share.sqrt() * noise - (1 - share).sqrt() * latents, limited / (snr + 1)
        else:
            target, weight = noise, limited / snr
        error = predicted.float() - target
        if self._clips is not None:
            weight, common = torch.ones_like(snr), error.mean(2, keepdim=True)
            error = common + self._clips.motion_weight**0.5 * (error - common)
        return (weight * error.square().flatten(1).mean(1)).mean()
