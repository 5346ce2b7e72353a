"""A run on a video base: looks at fixed noise, previews as clips, and at the end one file for each thing learned."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalities.core import media
from modalities.core.artifact import Artifact, read_tensors, write_tensors
from modalities.core.machine import Machine
from modalities.core.personalize import Session
from modalities.core.portable import export
from modalities.core.report import contact_sheet
from modalities.core.step import Batch, denoise
from modalities.core.studio import Studio
from modalities.video import lora_files
from modalities.video.adapter import Adapter, present
from modalities.video.backbone import VideoBackbone
from modalities.video.clips import as_images, save_previews
from modalities.video.components.initial_noise import InitialNoise
from modalities.video.concept import VideoConcept
from modalities.video.generate import clip_of_studio, frames_of
from modalities.video.learner import Learner, Source
from modalities.video.report import write_report
from modalities.video.trainer import VideoTrainer

TIMES = 4
INVERSION = "inversion.safetensors"


@dataclass(frozen=True)
class VideoLook:
    """Measurements at one step, at fixed noise and times, of what stays after training; NaN-free, absent is None.

    Attributes:
        step: steps done.
        photo_loss: mean squared error on the photos.
        clip_loss: the same on the clips, without their absorbers.
        motion_loss: its part that changes from frame to frame.
        best: always True: the newest weights are kept.
    """

    step: int
    photo_loss: float | None
    clip_loss: float | None
    motion_loss: float | None
    best: bool = True

    def line(self) -> dict[str, Any]:
        """As a line of `metrics.jsonl`."""
        return asdict(self)


class VideoSession(Session):
    """Trains appearance, motion or both; the last step's weights are kept."""

    trainer: VideoTrainer

    def __init__(self, run: Artifact, studio: Studio, machine: Machine) -> None:
        super().__init__(run, studio, machine)
        assert isinstance(studio.concept, VideoConcept)
        assert isinstance(studio.backbone, VideoBackbone)
        self.concept: VideoConcept = studio.concept
        self.backbone: VideoBackbone = studio.backbone

    def new_trainer(self) -> VideoTrainer:
        return VideoTrainer(self.studio)

    def prompts(self) -> list[tuple[str, str]]:
        """What previews show: each prompt, and what the base alone is asked for."""
        concept = self.concept
        if not concept.photos:
            return [(caption, caption) for caption in dict.fromkeys(concept.captions)]
        templates = list(concept.templates) or self.studio.recipe.validation.prompts
        return [(concept.prompt(one), concept.class_prompt(one)) for one in templates]

    def previews(self) -> int:
        return self.looks_planned() + len(self.prompts()) * (self.studio.recipe.validation.images + 1)

    def prepare(self) -> None:
        """Nothing is measured beforehand."""

    def train(self) -> None:
        about = self.run.about()
        clips = {str(clip.path.resolve()): clip.digest for clip in self.concept.clips}
        if about.get("clips") != clips:
            self.run.write_about(about | {"clips": clips})
        super().train()

    def _warn(self) -> None:
        """The kept step is not chosen by encoders, so there is nothing to warn of."""

    # -- looking ---------------------------------------------------------------------------------------------

    def _look(self) -> None:
        step = self.trainer.step
        clip, motion = self._clip_losses()
        look = VideoLook(step, self._photo_loss(), clip, motion)
        self.looks.append(look)
        self.lines.append(look.line())
        prompt, plain = self.prompts()[0]
        frames = self._generated(prompt if step else plain, 0)
        save_previews(frames, self.run.samples / f"step-{step:06}.mp4", self.rate, {"prompt": prompt})
        write_tensors(self.run.weights_file, self._kept_weights(), {"step": str(step)})
        losses = {"photos": look.photo_loss, "clips": look.clip_loss, "motion": look.motion_loss}
        said = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if value is not None)
        self.progress.note(f"step {step}: loss on {said}")

    def _looks_of(self, lines: list[dict[str, Any]]) -> list[Any]:
        return [VideoLook(**line) for line in lines if "clip_loss" in line]

    def _is_best(self, look: Any) -> bool:
        return True

    def _should_stop_early(self) -> bool:
        return False

    def _kept_weights(self) -> dict[str, Tensor]:
        dropped = {part.name for part in self.studio.components if isinstance(part, Learner) and not part.kept}
        return {name: value for name, value in self.studio.weights().items() if name.partition(".")[0] not in dropped}

    @property
    def rate(self) -> float:
        """Frames per second of the clips that are written."""
        return self.backbone.frames_per_second

    def _generated(self, prompt: str, index: int) -> Tensor:
        policy = next((part for part in self.studio.components if isinstance(part, InitialNoise)), None)
        noise = self.inversion if policy and policy.inverted and self.concept.clips else None
        with self.studio.at_rest():
            seed = self.studio.recipe.train.seed
            return clip_of_studio(self.studio, prompt, seed=seed, index=index, inverted=noise)

    def _photo_loss(self) -> float | None:
        concept = self.concept
        if not concept.photos:
            return None
        posterior = self.studio.encode(concept.photos)
        prompt = concept.prompt(self.studio.recipe.data.prompts[0])
        count = len(concept.photos)
        batch = self.studio.batch(posterior, range(count), [prompt] * count, range(count), purpose="validation")
        losses = [self._answered(self._at(batch, number), "photos")[0] for number in range(TIMES)]
        return sum(losses) / TIMES

    def _clip_losses(self) -> tuple[float | None, float | None]:
        concept = self.concept
        if not concept.clips:
            return None, None
        posterior = self.trainer.footage.posterior
        found: list[tuple[float, float]] = []
        for row in range(len(concept.clips)):
            batch = self.studio.batch(
                posterior, [row], [self.trainer.footage.caption(row)], [row], purpose="clip validation"
            )
            found += [self._answered(self._at(batch, number), "clips") for number in range(TIMES)]
        clip, motion = (sum(values) / len(found) for values in zip(*found, strict=True))
        return clip, motion

    def _at(self, batch: Batch, number: int) -> Batch:
        """The batch at one of `TIMES` evenly spaced times."""
        middle = torch.full((len(batch.prompts),), (number + 0.5) / TIMES, device=batch.latents.device)
        return replace(batch, t=self.backbone.schedule.timesteps(middle))

    def _answered(self, batch: Batch, source: Source) -> tuple[float, float]:
        """Mean squared error, and that of its part that changes from frame to frame, of what is kept."""
        parts = [part for part in self.studio.components if isinstance(part, Learner) and part.kept]
        here = [part for part in parts if source in part.present]
        slots = [slot for part in here if isinstance(part, Adapter) for slot in part.slots()]
        with torch.no_grad(), self.studio.at_rest(), ExitStack() as stack:
            stack.enter_context(present(self.backbone.modules().values(), slots))
            for part in parts:
                stack.enter_context(part.working(part in here))
            self.backbone.forget_text()
            step = denoise(self.backbone, batch)
            self.backbone.forget_text()
        error = step.prediction - step.target
        centred = error - error.mean(2, keepdim=True) if error.ndim == 5 else error
        return float(error.square().mean()), float(centred.square().mean())

    # -- the end ---------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Write what was learned as files for other tools, the final clips and the report."""
        self.progress.start("writing clips, report and portable files", 0)
        self.studio.set_learning({})
        kept = self.looks[-1]
        written = lora_files.write(self.studio, self.run, frames=frames_of(self.studio))
        if self.concept.clips:
            write_tensors(
                self.run.folder / INVERSION,
                {"noise": self.inversion},
                {"steps": str(self.studio.recipe.sample.steps)},
            )
        finals = self._finals()
        about = self._about() | {
            "kept_step": kept.step,
            "kept": kept.line(),
            "learned": [path.name for path in written],
            "portable": export(self.studio, self.run.portable),
            "captions": list(self.concept.captions),
            "templates": list(self.concept.templates),
            "frames": frames_of(self.studio),
            "frames_per_second": self.rate,
            "previews": [str(path.relative_to(self.run.folder)) for _, paths, _ in finals for path in paths],
        }
        self._write_pages(finals, about)
        self._close(about)

    @cached_property
    def inversion(self) -> Tensor:
        """The noise that the learned clips come from."""
        return self.trainer.footage.inversion()

    def _finals(self) -> list[tuple[str, list[Path], Tensor]]:
        """Each prompt with the files and the frames of what was made of it."""
        finals: list[tuple[str, list[Path], Tensor]] = []
        for number, (prompt, _) in enumerate(self.prompts()):
            for index in range(self.studio.recipe.validation.images):
                frames = self._generated(prompt, index)
                path = self.run.folder / "previews" / f"{number}-{index}.mp4"
                finals.append((prompt, save_previews(frames, path, self.rate, {"prompt": prompt}), frames))
        return finals

    def _write_pages(self, finals: list[tuple[str, list[Path], Tensor]], about: dict[str, Any]) -> None:
        rows: list[tuple[str, list[media.Image.Image]]] = []
        if self.concept.photos:
            rows.append((f"the photos of {self.concept.phrase}", [one.open() for one in self.concept.photos][:8]))
        for number, caption in enumerate(self.concept.captions):
            rows.append((f"the clip: {caption}", as_images(self.trainer.footage.pixels(number))))
        rows += [(prompt, as_images(frames)) for prompt, _, frames in finals]
        sheet = contact_sheet(rows)
        media.save_png(sheet, self.run.contact_sheet)
        write_report(self.run, self.studio, self.looks, sheet, about)


def read_inversion(run: Artifact) -> Tensor | None:
    """The inverted noise of a run's clips, `(N, C, F, h, w)`, if it learned from clips."""
    path = run.folder / INVERSION
    return read_tensors(path)[0]["noise"] if path.is_file() else None
