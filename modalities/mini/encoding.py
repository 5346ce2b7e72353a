"""The autoencoder of a build, and the latents that all else learns from.

Each property makes its result once, from those that it names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from modalities.mini import autoencoder, shards
from modalities.mini.motion import FRAMES
from modalities.mini.precision import mixed_precision
from modalities.mini.stock import save_array
from modalities.mini.training import Stretch
from modalities.mini.workbench import Workbench, save_weights, seeded


class Encoding(Workbench):
    """A workbench that has an autoencoder."""

    @cached_property
    def autoencoder_folder(self) -> Path:
        return self.stage_folder("autoencoder", self.pictures_folder.name, self.recipe.autoencoder)

    @cached_property
    def autoencoder(self) -> AutoencoderKL:
        """The finished autoencoder, its latents with mean 0 and spread 1 in every channel."""
        settings, seed = self.recipe.autoencoder, self.recipe.seed
        model = seeded(seed, autoencoder.new_autoencoder, settings.channels, self.recipe.size)
        stretch = Stretch(0, settings.steps, settings.learning_rate, settings.warmup, settings.anneal)
        path = self.autoencoder_folder / "normalized.safetensors"
        if not path.exists():
            pictures = self.first_pictures(settings.pictures)
            with self.team_for("autoencoder"):
                task = self._autoencoder_task(model, pictures)
                self.train(model, task.loss, stretch, self.autoencoder_folder, settings.average)
                sample = torch.cat([
                    autoencoder.encoded(model, pixels)
                    for pixels in autoencoder.batches(pictures.first(4096), self.device)
                ])  # fmt: skip
                autoencoder.normalize_latents(model, sample)
                save_weights(model, path)
        model.load_state_dict(load_file(path))
        return model.to(self.device).eval()

    @cached_property
    def redecoded_autoencoder(self) -> AutoencoderKL:
        """The autoencoder with its decoder trained further; its encoder, and so all latents, are the same."""
        settings, model = self.recipe.decoder, copy.deepcopy(self.autoencoder)
        stretch = Stretch(0, settings.steps, settings.learning_rate, settings.warmup, settings.steps // 2)

        def loss() -> Callable[[int], Tensor]:
            task = self._autoencoder_task(model, self.pictures, 1)
            return autoencoder.DecoderTask(task, settings.steps_on_crops).loss

        return self.once(
            model, self._redecoded_folder, stretch, settings.average, loss, trained_by="redecoded_autoencoder"
        )

    @cached_property
    def _redecoded_folder(self) -> Path:
        return self.stage_folder("decoder", self.autoencoder_folder.name, self.recipe.decoder)

    @cached_property
    def finished_autoencoder(self) -> AutoencoderKL:
        """The same after each stretch of `together`, its latents near those that the denoiser learned from."""
        if not self.recipe.together:
            return self.redecoded_autoencoder
        settings = self.recipe.together[-1]
        model = copy.deepcopy(self._before_last_together.finished_autoencoder)

        def loss() -> Callable[[int], Tensor]:
            pictures, number = self.first_pictures(settings.pictures), 1 + len(self.recipe.together)
            task = self._autoencoder_task(model, pictures, number, foreign_share=settings.foreign_share)
            return autoencoder.TogetherTask(task, self.autoencoder, settings.hold).loss

        return self.in_stretches(model, self._together_folders, settings, loss, "finished_autoencoder")

    @cached_property
    def _before_last_together(self) -> Self:
        """What builds the same base without the last stretch of `together`."""
        return self.with_recipe(together=self.recipe.together[:-1])

    @cached_property
    def _together_folders(self) -> tuple[Path, Path]:
        """Where the last stretch of `together` works at a constant rate, and where it anneals."""
        settings, before = self.recipe.together[-1], self._redecoded_folder
        if len(self.recipe.together) > 1:
            before = self._before_last_together._together_folders[1]
        fixed = settings.model_copy(update={"steps": 1, "anneal": 1})
        begun = self.stage_folder("together", before.name, fixed)
        return begun, self.stage_folder("together_anneal", begun.name, settings.steps, settings.anneal)

    def with_recipe(self, **changes: Any) -> Self:
        """What builds by a recipe with other settings, from the same cache."""
        recipe = self.recipe.model_copy(update=changes)
        return type(self)(recipe, self.folder, self.progress, self.stop, self.device, self.processes)

    def _autoencoder_task(
        self, model: AutoencoderKL, pictures: shards.Pictures, number: int = 0, **changes: Any
    ) -> autoencoder.AutoencoderTask:
        """Batches and loss for `model`; each training has its `number`, for random numbers of its own."""
        settings, seed = self.recipe.autoencoder.model_copy(update=changes), self.recipe.seed + number
        return autoencoder.AutoencoderTask(model, pictures, settings, seed, self.device)

    @cached_property
    def picture_latents(self) -> np.ndarray:
        """Latents (N, 4, H, W) float16 of the first ring."""
        return self._latents(self.pictures_folder, lambda: self.pictures)

    @cached_property
    def varied_latents(self) -> np.ndarray:
        """The same of the second ring."""
        return self._latents(self.varied_folder, lambda: self.varied)

    @cached_property
    def clip_latents(self) -> np.ndarray:
        """Latents (N, F, 4, H, W) float16 of the clips."""
        latents = self._latents(self.frames_folder, lambda: self.frames)
        return latents.reshape(-1, FRAMES, *latents.shape[1:])

    def _latents(self, source: Path, pictures: Callable[[], shards.Pictures]) -> np.ndarray:
        """Latents of rendered pictures, encoded once."""
        path = self.stage_folder("latents", self.autoencoder_folder.name, source.name) / "latents.npy"
        if not path.exists():
            save_array(self._encoded(pictures()), path)
        return np.load(path)

    def _encoded(self, pictures: shards.Pictures) -> np.ndarray:
        model, parts = self.autoencoder, []
        self.progress.start("encode", len(pictures))
        for pixels in autoencoder.batches(pictures, self.device):
            if self.stop:
                self.interrupt("encoding")
            with mixed_precision(self.device):
                parts.append(autoencoder.encoded(model, pixels).half().cpu().numpy())
            self.progress.advance(len(pixels))
        return np.concatenate(parts)
