"""Build the embedded base from nothing: render, train each network, check, and write a diffusers folder.

Every stage keeps its work in the cache under a key of all settings that it depends on: a build goes on
where it stopped, and a changed setting repeats only what it changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer, ResNetModel

from modalities.core.errors import Interrupted
from modalities.core.files import lock, replacing
from modalities.core.progress import Progress, StopRequest, stop_on_signals
from modalities.mini import autoencoder, captions, denoiser, encoders, shards
from modalities.mini.export import write_base
from modalities.mini.probe import Probe, ProbeTask
from modalities.mini.settings import BuildRecipe
from modalities.mini.tokenizer import train_tokenizer
from modalities.mini.training import Stretch, Trainer
from modalities.mini.world import Scene

Module = TypeVar("Module", bound=nn.Module)


def build(recipe: BuildRecipe, out: Path, cache: Path, progress: Progress, device: str = "cpu") -> dict[str, Any]:
    """Build the base by `recipe` into the folder `out`, working under `cache`; return what `build.json` says.

    Raises:
        Interrupted: it was asked to stop; calling it again goes on from there.
    """
    folder = cache / "mini"
    with lock(folder), stop_on_signals() as stop, _one_thread():
        workshop = Workshop(recipe, folder, progress, stop, torch.device(device))
        return write_base(workshop, out)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Such small nets lose more by waiting for a second thread than they win, most on a shared machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Workshop:
    """The stages of a build. Each property makes its result once, from those that it names."""

    def __init__(
        self, recipe: BuildRecipe, folder: Path, progress: Progress, stop: StopRequest, device: torch.device
    ) -> None:
        self.recipe, self.folder, self.progress, self.stop, self.device = (
            recipe,
            folder,
            progress,
            stop,
            device,
        )

    @cached_property
    def pictures_folder(self) -> Path:
        key = (shards.fingerprint(self.recipe.size), self.recipe.size, self.recipe.seed)
        return self._stage_folder("pictures", *key)

    @cached_property
    def pictures(self) -> shards.Pictures:
        """All training pictures, rendered."""
        seed = self.recipe.seed
        return self._rendered(
            self.pictures_folder, lambda index: shards.training_scene(seed, index), self.recipe.world.pictures
        )

    @cached_property
    def families(self) -> shards.Pictures:
        """Pictures of the same individuals in other contexts and views."""
        settings, seed = self.recipe.subject_encoder, self.recipe.seed
        folder = self._stage_folder("families", self.pictures_folder.name, settings.views)
        return self._rendered(
            folder,
            lambda index: encoders.family_scene(seed, index, settings.views),
            settings.families * settings.views,
        )

    def _rendered(self, folder: Path, scene_of: Callable[[int], Scene], count: int) -> shards.Pictures:
        if not shards.render_shards(folder, scene_of, count, self.recipe.size, self.progress, self.stop):
            self._interrupt("rendering")
        return shards.Pictures.open(folder, count)

    @cached_property
    def autoencoder_folder(self) -> Path:
        return self._stage_folder("autoencoder", self.pictures_folder.name, self.recipe.autoencoder)

    @cached_property
    def autoencoder(self) -> AutoencoderKL:
        """The finished autoencoder, its latents with mean 0 and spread 1 in every channel."""
        settings, seed = self.recipe.autoencoder, self.recipe.seed
        model = _seeded(seed, autoencoder.new_autoencoder, settings.channels, self.recipe.size)
        stretch = Stretch(0, settings.steps, settings.learning_rate, settings.warmup, settings.anneal)
        path = self.autoencoder_folder / "normalized.safetensors"
        if not path.exists():
            pictures = self.pictures.first(settings.pictures)
            task = autoencoder.AutoencoderTask(model, pictures, settings, seed, self.device)
            self._train(model, task.loss, stretch, self.autoencoder_folder, settings.average)
            sample = torch.cat([
                autoencoder.encoded(model, pixels)
                for pixels in autoencoder.batches(self.pictures.first(4096), self.device)
            ])  # fmt: skip
            autoencoder.normalize_latents(model, sample)
            _save(model, path)
        model.load_state_dict(load_file(path))
        return model.to(self.device).eval()

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer, learned from the captions of the first pictures."""
        count, seed = min(3000, self.recipe.world.pictures), self.recipe.seed
        said = [text for i in range(count) for text in shards.captions_of(i, seed, 4)]
        return train_tokenizer([*said, *captions.all_words() * 4], self.recipe.vocabulary)

    @cached_property
    def examples_folder(self) -> Path:
        said = [shards.captions_of(i, self.recipe.seed, self.recipe.world.captions) for i in range(200)]
        words = self.tokenizer.backend_tokenizer.to_str()
        return self._stage_folder("examples", self.autoencoder_folder.name, self.recipe.world, said, words)

    @cached_property
    def examples(self) -> denoiser.LatentSet:
        """Latents and tokenized captions of all training pictures."""
        folder = self.examples_folder
        if not (folder / "tokens.npy").exists():
            _save_array(self._latents(), folder / "latents.npy")
            _save_array(self._tokens(), folder / "tokens.npy")
        latents, tokens = np.load(folder / "latents.npy"), np.load(folder / "tokens.npy")
        return denoiser.LatentSet(latents, tokens, denoiser.token_ids(self.tokenizer, [""])[0])

    def _latents(self) -> np.ndarray:
        model, parts = self.autoencoder, []
        self.progress.start("encode", len(self.pictures))
        for pixels in autoencoder.batches(self.pictures, self.device):
            if self.stop:
                self._interrupt("encoding")
            with torch.autocast(self.device.type, torch.bfloat16):
                parts.append(autoencoder.encoded(model, pixels).half().cpu().numpy())
            self.progress.advance(len(pixels))
        return np.concatenate(parts)

    def _tokens(self) -> np.ndarray:
        count, pictures = self.recipe.world.captions, self.recipe.world.pictures
        self.progress.start("captions", pictures)
        tokens = np.empty((pictures, count, denoiser.POSITIONS), np.int16)
        for i in range(pictures):
            if self.stop:
                self._interrupt("captioning")
            tokens[i] = denoiser.token_ids(self.tokenizer, shards.captions_of(i, self.recipe.seed, count))
            self.progress.advance()
        return tokens

    @cached_property
    def denoiser_folder(self) -> Path:
        settings = self.recipe.denoiser.model_copy(update={"steps": 1})
        return self._stage_folder("denoiser", self.examples_folder.name, settings)

    def new_denoiser(self) -> denoiser.DenoiserTask:
        """The untrained denoiser and what it learns from."""
        settings, seed = self.recipe.denoiser, self.recipe.seed
        text = _seeded(seed, denoiser.new_text_encoder, self.tokenizer, settings.text_width, settings.text_layers)
        shape = (
            settings.channels,
            settings.head_width,
            settings.text_width,
            self.recipe.size // autoencoder.FACTOR,
        )
        unet = _seeded(seed, denoiser.new_unet, *shape)
        return denoiser.DenoiserTask(text, unet, self.examples, settings, seed, self.device)

    @cached_property
    def denoiser(self) -> nn.ModuleDict:
        """Text encoder and UNet after the constant stretch and the anneal, with averaged weights."""
        settings, steps = self.recipe.denoiser, self.recipe.denoiser.steps
        last = steps + self.recipe.anneal.steps
        folder = self._stage_folder("anneal", self.denoiser_folder.name, steps, self.recipe.anneal)
        task = self.new_denoiser()
        if not (folder / "finished.safetensors").exists():
            constant = Stretch(0, steps, settings.learning_rate, settings.warmup)
            reached = self._constant_stretch(task, constant)
            falling = Stretch(steps, last, settings.learning_rate, anneal=self.recipe.anneal.steps)
            self._train(task.module, task.loss, falling, folder, settings.average, begin=reached)
            _save(task.module, folder / "finished.safetensors")
        task.module.load_state_dict(load_file(folder / "finished.safetensors"))
        return task.module.eval()

    def _constant_stretch(self, task: denoiser.DenoiserTask, stretch: Stretch) -> Path:
        """Train to the end of `stretch` and return the state there, which later, longer builds go on from."""
        reached = self.denoiser_folder / f"reached-{stretch.last}.pt"
        if not reached.exists():
            trainer = Trainer(task.module, self.denoiser_folder / "state.pt", self.recipe.denoiser.average)
            if not trainer.train(task.loss, stretch, "denoiser", self.progress, self.stop).is_finished:
                self._interrupt("denoiser")
            trainer.path = reached
            trainer.save()
        return reached

    @cached_property
    def probe(self) -> Probe:
        """The classifier that judges what the base draws."""
        settings, seed = self.recipe.probe, self.recipe.seed
        model = _seeded(seed, Probe, settings.widths)
        folder = self._stage_folder("probe", self.pictures_folder.name, settings, self.recipe.world.pictures)
        stretch = Stretch(0, settings.steps, settings.learning_rate, 100, settings.steps // 3)
        return self._once(
            model,
            folder,
            stretch,
            0.998,
            lambda: ProbeTask(model, self.pictures, settings, seed, self.device).loss,
        )

    @cached_property
    def subject_encoder(self) -> ResNetModel:
        """The network that knows an individual again."""
        settings, seed = self.recipe.subject_encoder, self.recipe.seed
        model = _seeded(seed, encoders.new_subject_encoder, settings.widths)
        folder = self._stage_folder("subject_encoder", self.pictures_folder.name, settings)
        stretch = Stretch(0, settings.steps, settings.learning_rate, 100, settings.steps // 2)
        # Its batch norms follow the newest weights, so averaged ones would not fit them.
        return self._once(
            model,
            folder,
            stretch,
            0.0,
            lambda: encoders.SubjectEncoderTask(model, self.families, settings, seed, self.device).loss,
        )

    @cached_property
    def clip(self) -> CLIPModel:
        """The network that compares a picture with words."""
        settings, seed = self.recipe.clip, self.recipe.seed
        shape = (settings.width, settings.layers, settings.patch, self.recipe.size)
        model = _seeded(seed, encoders.new_clip, self.tokenizer, *shape)
        folder = self._stage_folder("clip", self.examples_folder.name, settings)
        stretch = Stretch(0, settings.steps, settings.learning_rate, 500, settings.steps // 2)
        tokens = self.examples.tokens
        return self._once(
            model,
            folder,
            stretch,
            0.998,
            lambda: encoders.ClipTask(model, self.pictures, tokens, settings, seed, self.device).loss,
        )

    def _once(
        self,
        model: Module,
        folder: Path,
        stretch: Stretch,
        average: float,
        make_loss: Callable[[], Callable[[int], Tensor]],
    ) -> Module:
        """`model` trained over `stretch`, from disk if that was done before."""
        path = folder / "finished.safetensors"
        if not path.exists():
            self._train(model, make_loss(), stretch, folder, average)
            _save(model, path)
        model.load_state_dict(load_file(path))
        return model.to(self.device).eval()

    def _train(
        self,
        module: nn.Module,
        loss: Any,
        stretch: Stretch,
        folder: Path,
        average: float,
        begin: Path | None = None,
    ) -> None:
        """Train `module` over `stretch` in `folder`, and leave the averaged weights in it."""
        trainer = Trainer(module, folder / "state.pt", average)
        if begin is not None and not trainer.path.exists():
            trainer.load(begin)
        stage = folder.name.rpartition("-")[0]
        if not trainer.train(loss, stretch, stage, self.progress, self.stop).is_finished:
            self._interrupt(stage)
        trainer.use_averaged()

    def _stage_folder(self, stage: str, *key: Any) -> Path:
        """A folder of the cache for a stage with these settings."""
        plain = json.dumps(key, default=lambda settings: settings.model_dump(), sort_keys=True)
        return self.folder / f"{stage}-{hashlib.sha256(plain.encode()).hexdigest()[:12]}"

    def _interrupt(self, stage: str) -> None:
        raise Interrupted(f"mini: stopped while {stage}; what was done is kept.", "pcs base build mini")


def _seeded(seed: int, make: Any, *arguments: Any) -> Any:
    """Call `make` with torch's random numbers fixed, and leave the caller's alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*arguments)


def _save(module: nn.Module, path: Path) -> None:
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in module.state_dict().items()}, temporary)


def _save_array(array: np.ndarray, path: Path) -> None:
    with replacing(path) as temporary:
        np.save(temporary, array)
