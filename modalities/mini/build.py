"""Build the embedded base from nothing: render, train each network, check, and write a diffusers folder.

Every stage keeps its work in the cache under a key of all settings that it depends on: a build goes on
where it stopped, and a changed setting repeats only what it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPModel, ResNetModel

from modalities.core.files import lock
from modalities.core.media import save_png
from modalities.core.progress import Progress, stop_on_signals
from modalities.mini import autoencoder, denoiser, encoders, shards, team
from modalities.mini.check import sample_sheet
from modalities.mini.denoiser import DenoiserTask
from modalities.mini.encoding import Encoding
from modalities.mini.export import image_pipeline, write_base
from modalities.mini.motion import FRAMES
from modalities.mini.probe import MotionProbe, MotionProbeTask, Probe, ProbeTask
from modalities.mini.settings import BuildRecipe, Lesson, VideoSettings
from modalities.mini.stock import vocabulary_of
from modalities.mini.training import Stretch
from modalities.mini.workbench import seeded


def build(
    recipe: BuildRecipe, out: Path, cache: Path, progress: Progress, device: str = "cpu", processes: int = 1
) -> dict[str, Any]:
    """Build the base by `recipe` into the folder `out`, working under `cache`; return what `build.json` says.

    `processes` share the rendering and every batch of the larger networks. Their number changes the weights as
    rounding does, and nothing else.

    Raises:
        Interrupted: it was asked to stop; calling it again goes on from there.
    """
    folder = cache / "mini"
    with lock(folder), stop_on_signals() as stop, _one_thread():
        workshop = Workshop(recipe, folder, progress, stop, torch.device(device), processes)
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


class Workshop(Encoding):
    """The networks of a build. Each property makes its result once, from those that it names."""

    def examples(self, lesson: Lesson) -> list[denoiser.LatentSet]:
        """What the image denoiser learns from in a lesson."""
        examples = [denoiser.LatentSet(self.picture_latents, self.first_captions(lesson))]
        world, count = self.recipe.world, lesson.captions
        if lesson.varied_share:
            tokens = self.varied_captions(lesson)
            examples.append(denoiser.LatentSet(self.varied_latents, tokens, lesson.varied_share))
        if lesson.frame_share:
            tokens = np.repeat(self.tokens_of(shards.clip_captions_of, world.clips, count), FRAMES, axis=0)
            latents = self.clip_latents.reshape(-1, *self.clip_latents.shape[2:])
            examples.append(denoiser.LatentSet(latents, tokens, lesson.frame_share))
        return examples

    def new_networks(self) -> nn.ModuleDict:
        """Text encoder and UNet, untrained."""
        settings, seed = self.recipe.denoiser, self.recipe.seed
        text = seeded(seed, denoiser.new_text_encoder, self.tokenizer, settings.text_width, settings.text_layers)
        side = self.recipe.size // autoencoder.FACTOR
        shape = (settings.channels, settings.head_width, settings.text_width, side)
        return nn.ModuleDict({"text_encoder": text, "unet": seeded(seed, denoiser.new_unet, *shape)})

    def denoiser_task(
        self,
        networks: nn.ModuleDict,
        examples: list[denoiser.LatentSet],
        batch: int,
        seed: int,
        clips: VideoSettings | None = None,
    ) -> DenoiserTask:
        """Batches and loss for `networks` to learn from `examples`."""
        empty = denoiser.token_ids(self.tokenizer, [""])[0]
        settings = self.recipe.denoiser
        return DenoiserTask(networks, examples, empty, settings, batch, seed, self.device, clips)

    @cached_property
    def denoiser_folder(self) -> Path:
        """Where the anneal works; all that the image networks depend on is in its name."""
        last = len(self.recipe.denoiser.lessons) - 1
        folder, until = self._lesson_folder(last), self.recipe.denoiser.steps
        return self.stage_folder("anneal", folder.name, until, self.recipe.anneal)

    def _lesson_folder(self, number: int) -> Path:
        """A lesson's folder: all before it count in full, of its own only its length does not."""
        settings = self.recipe.denoiser
        own = settings.lessons[number].model_copy(update={"until": 1})
        fixed = settings.model_copy(update={"lessons": (*settings.lessons[:number], own)})
        return self.stage_folder("denoiser", self.autoencoder_folder.name, fixed)

    @cached_property
    def denoiser(self) -> nn.ModuleDict:
        """Text encoder and UNet after all lessons and the anneal, with averaged weights."""
        settings, steps, networks = self.recipe.denoiser, self.recipe.denoiser.steps, self.new_networks()
        last, length = settings.lessons[-1], self.recipe.anneal.steps
        stretch = Stretch(steps, steps + length, settings.learning_rate, anneal=length)

        def loss() -> Callable[[int], Tensor]:
            return self.denoiser_task(networks, self.examples(last), settings.batch, self.recipe.seed).loss

        return self.once(
            networks, self.denoiser_folder, stretch, settings.average, loss, self._lessons, trained_by="denoiser"
        )

    def _lessons(self) -> Path:
        """Train all lessons at a constant rate; return the state after the last, which longer builds go on from."""
        settings, reached, first = self.recipe.denoiser, Path(), 0
        for number, lesson in enumerate(settings.lessons):
            folder, begin = self._lesson_folder(number), reached
            reached = folder / f"reached-{lesson.until}.pt"
            if not reached.exists():
                networks = self.new_networks()
                task = self.denoiser_task(networks, self.examples(lesson), settings.batch, self.recipe.seed)
                stretch = Stretch(first, lesson.until, settings.learning_rate, settings.warmup)
                trainer = self.train(networks, task.loss, stretch, folder, settings.average, begin if number else None)
                trainer.path = reached
                trainer.save()
                trainer.use_averaged()
                if team.rank() == 0:
                    self._show(networks, folder / f"samples-{lesson.until}.png")
            first = lesson.until
        return reached

    def _show(self, networks: nn.ModuleDict, path: Path) -> None:
        """Write a sheet of what networks in training draw, to look at while a build goes on."""
        pipeline = image_pipeline(self, networks.eval())
        save_png(sample_sheet(pipeline, self.recipe.size, self.recipe.check), path)
        self.progress.note(f"samples so far: {path}")

    @cached_property
    def video(self) -> nn.ModuleDict:
        """The text encoder, and the video UNet: the image UNet's tensors, and temporal layers trained on clips.

        After that each stretch of `motion_words` trains the layers further, with its words.
        """
        if self.recipe.motion_words:
            return self._with_last_words()
        settings, seed = self.recipe.video, self.recipe.seed
        unet = seeded(seed, denoiser.new_video_unet, self.denoiser["unet"])
        text_encoder = self.denoiser["text_encoder"].requires_grad_(False)
        networks = nn.ModuleDict({"text_encoder": text_encoder, "unet": unet})
        return self._learned_from_clips(networks, settings, lambda: [self._clips()], seed)

    def _with_last_words(self) -> nn.ModuleDict:
        """The networks of the stretch before, trained further together with the words of the last."""
        settings, before = self.recipe.motion_words[-1], self._before_last_words
        learned = before.video
        text_encoder = denoiser.with_words(learned["text_encoder"], before.worded_tokenizer, self.worded_tokenizer)
        networks = nn.ModuleDict({"text_encoder": text_encoder, "unet": learned["unet"]})

        def examples() -> list[denoiser.LatentSet]:
            every = self._clips()
            motions = [shards.training_clip(self.recipe.seed, i).motion for i in range(self.recipe.world.clips)]
            named = np.isin(motions, list(settings.added))
            return [every, denoiser.LatentSet(every.latents[named], every.tokens[named], settings.share)]

        # With the seed of a stretch before, its noise would come again.
        seed = self.recipe.seed + len(self.recipe.motion_words)
        return self._learned_from_clips(networks, settings, examples, seed, settings.embedding_rate)

    @cached_property
    def _before_last_words(self) -> Self:
        """What builds the same base without the last stretch of `motion_words`."""
        return self.with_recipe(motion_words=self.recipe.motion_words[:-1])

    @cached_property
    def _video_folders(self) -> tuple[Path, Path]:
        """Where the last stretch of the temporal layers works at a constant rate, and where it anneals."""
        if self.recipe.motion_words:
            stage, settings = "motion_words", self.recipe.motion_words[-1]
            before = self._before_last_words._video_folders[1].name
        else:
            stage, settings, before = "video", self.recipe.video, self.denoiser_folder.name
        fixed = settings.model_copy(update={"steps": 1, "anneal": 1})
        begun = self.stage_folder(stage, before, self.frames_folder.name, fixed)
        return begun, self.stage_folder(f"{stage}_anneal", begun.name, settings.steps, settings.anneal)

    def _clips(self) -> denoiser.LatentSet:
        """All clips and their captions."""
        tokens = self.tokens_of(shards.clip_captions_of, self.recipe.world.clips, 4, self.worded_tokenizer)
        return denoiser.LatentSet(self.clip_latents, tokens)

    def _learned_from_clips(
        self,
        networks: nn.ModuleDict,
        settings: VideoSettings,
        examples: Callable[[], list[denoiser.LatentSet]],
        seed: int,
        embedding_rate: float = 1.0,
    ) -> nn.ModuleDict:
        """`networks` trained at a constant rate, which may go on for longer later, and then annealed."""

        def loss() -> Callable[[int], Tensor]:
            return self.denoiser_task(networks, examples(), settings.batch, seed, settings).loss

        return self.in_stretches(networks, self._video_folders, settings, loss, "video", embedding_rate)

    @cached_property
    def probe(self) -> Probe:
        """The classifier that judges what the base draws."""
        settings, seed = self.recipe.probe, self.recipe.seed
        model = seeded(seed, Probe, settings.widths)
        world = self.recipe.world
        rings = (self.pictures_folder.name, self.varied_folder.name, world.pictures, world.varied)
        folder = self.stage_folder("probe", *rings, settings)
        stretch = Stretch(0, settings.steps, settings.learning_rate, 100, settings.steps // 3)
        return self.once(
            model,
            folder,
            stretch,
            0.998,
            lambda: ProbeTask(model, self.pictures, self.varied, settings, seed, self.device).loss,
        )

    @cached_property
    def motion_probe(self) -> MotionProbe:
        """The classifier that judges clips."""
        settings, seed = self.recipe.motion_probe, self.recipe.seed
        model = seeded(seed, MotionProbe, settings.widths)
        folder = self.stage_folder("motion_probe", self.frames_folder.name, self.recipe.world.clips, settings)
        stretch = Stretch(0, settings.steps, settings.learning_rate, 100, settings.steps // 3)
        return self.once(
            model,
            folder,
            stretch,
            0.998,
            lambda: MotionProbeTask(model, self.frames, settings, seed, self.device).loss,
        )

    @cached_property
    def subject_encoder(self) -> ResNetModel:
        """The network that knows an individual again."""
        settings, seed = self.recipe.subject_encoder, self.recipe.seed
        model = seeded(seed, encoders.new_subject_encoder, settings.widths)
        folder = self.stage_folder("subject_encoder", self.pictures_folder.name, settings)
        stretch = Stretch(0, settings.steps, settings.learning_rate, 100, settings.steps // 2)
        # Its batch norms follow the newest weights, so averaged ones would not fit them.
        return self.once(
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
        model = seeded(seed, encoders.new_clip, self.tokenizer, *shape)
        rings = (self.pictures_folder.name, self.varied_folder.name, self.recipe.world)
        folder = self.stage_folder("clip", *rings, vocabulary_of(self.tokenizer), settings)
        stretch = Stretch(0, settings.steps, settings.learning_rate, 500, settings.steps // 2)
        lesson = self.recipe.denoiser.lessons[-1]
        return self.once(
            model,
            folder,
            stretch,
            0.998,
            lambda: (
                encoders.ClipTask(
                    model,
                    [(self.pictures, self.first_captions(lesson)), (self.varied, self.varied_captions(lesson))],
                    settings,
                    seed,
                    self.device,
                ).loss
            ),
        )
