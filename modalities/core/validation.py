"""What a run looks at while it trains: how well it fits, how like the subject, how true to the prompt, how far gone."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from statistics import mean

import torch
from PIL import Image
from torch import Tensor

from modalities.core import generate
from modalities.core.backbone import Posterior
from modalities.core.encoders import ImageEncoder, TextImageEncoder
from modalities.core.metrics.clip_t import TextAlignment
from modalities.core.metrics.dino_i import SubjectSimilarity
from modalities.core.step import Batch, denoise
from modalities.core.studio import Studio

TIMES = 4
COARSEST = 4
CHUNK = 8
BOTH = "a {1} beside a {2}"


@dataclass(frozen=True)
class Look:
    """Measurements at one step.

    Attributes:
        step: steps done.
        loss: mean error on the reference photos at fixed noise and times.
        subject: mean similarity of the previews to the photos.
        text: mean alignment of the previews with their prompts.
        drift: change of the answers to class prompts, relative to the base's answers; 0 is none.
        balance: harmonic mean of the share of the subject that was gained and of the alignment that was kept, each
            in [0, 1]; the base itself has 0. Alignment counts by its margin over what the same previews score
            with the other prompts: a subject that looks unlike its class lowers both.
        best: whether it is the best so far.
    """

    step: int
    loss: float
    subject: float
    text: float
    drift: float
    balance: float
    best: bool = False

    def line(self) -> dict[str, float | int | bool]:
        """As a line of `metrics.jsonl`."""
        return asdict(self)


@dataclass(frozen=True)
class Final:
    """What a finished run draws of one prompt, and what its base drew of the same prompt with the class word."""

    prompt: str
    class_prompt: str
    before: Image.Image
    after: list[Image.Image]


class Validation:
    """Looks at a studio with the same noise, times, prompts and seeds every time."""

    def __init__(self, studio: Studio, likeness: ImageEncoder, prompts: TextImageEncoder) -> None:
        """Measure the base itself first; the studio must not have learned anything yet."""
        self._studio = studio
        # An encoder that sees a few pixels of each picture has no say in which step is kept.
        self.can_judge = COARSEST * min(likeness.side, prompts.side) >= studio.resolution
        templates, subjects = studio.recipe.validation.prompts, studio.concept.subjects
        self._prompts = [one.prompt(template) for one in subjects for template in templates]
        self._captions = [one.class_prompt(template) for one in subjects for template in templates]
        self._similarities = [SubjectSimilarity(likeness, [photo.open() for photo in one.photos]) for one in subjects]
        self._alignment = TextAlignment(prompts)
        self._photos = self._fixed(studio.encode(studio.concept.all_photos), self._photo_prompts(), "validation")
        self.before = generate.previews(studio, self._captions, 1)
        both = [studio.concept.class_prompt(BOTH)] if studio.concept.others else []
        self._both_before = generate.previews(studio, both, 1)
        self._class = self._fixed(studio.encode_images(self.before), self._captions, "drift")
        self._base_answers = self._answers(self._class)
        ceiling = mean(similarity.ceiling() for similarity in self._similarities)
        self._subject_span = (self._similarity(self.before), ceiling)
        self._base_margin = self._margin(self.before)[1]

    @property
    def select(self) -> str:
        """How the kept step is chosen: as the recipe says, but the last where the encoders cannot judge."""
        return self._studio.recipe.validation.select if self.can_judge else "last"

    def look(self, step: int) -> tuple[Look, list[Image.Image]]:
        """Measure; return the numbers and the previews, prompt by prompt.

        Before the first step the previews are what the base makes of the class prompts.
        """
        count = self._studio.recipe.validation.images if step else 1
        images = generate.previews(self._studio, self._prompts, count) if step else self.before
        subject = self._similarity(images)
        text, margin = self._margin(images)
        balance = _harmonic(_share(subject, self._subject_span), _share(margin, (0.0, self._base_margin)))
        return Look(step, self.loss(), subject, text, self._drift(), balance), images

    def _similarity(self, images: list[Image.Image]) -> float:
        """Mean likeness of previews, subject by subject, with the photos of their own subject."""
        count = len(images) // len(self._similarities)
        return mean(
            score
            for number, similarity in enumerate(self._similarities)
            for score in similarity.score(images[number * count : (number + 1) * count])
        )

    def _margin(self, images: list[Image.Image]) -> tuple[float, float]:
        """Mean alignment of previews, prompt by prompt, with their own prompts, and how far it is above the others'."""
        count = len(images) // len(self._captions)
        captions = [caption for caption in self._captions for _ in range(count)]
        own, others = self._alignment.score(images, captions)
        return own, own - others

    def final(self, images: int) -> list[Final]:
        """`images` pictures of each prompt; of several subjects also the first two side by side."""
        concept = self._studio.concept
        both = [BOTH] if concept.others else []
        prompts = [*self._prompts, *map(concept.prompt, both)]
        captions = [*self._captions, *map(concept.class_prompt, both)]
        made = generate.previews(self._studio, prompts, images)
        groups = [made[start : start + images] for start in range(0, len(made), images)]
        rows = zip(prompts, captions, [*self.before, *self._both_before], groups, strict=True)
        return [Final(*row) for row in rows]

    def loss(self) -> float:
        """Mean error on the reference photos at fixed noise and times."""
        with torch.no_grad():
            errors = [denoise(self._studio.backbone, part).error for part in _chunks(self._photos)]
        return float(torch.cat(errors).mean())

    def frozen_loss(self) -> float:
        """Mean error on a few of the items of `loss`, cheap enough for every step."""
        with torch.no_grad():
            return float(denoise(self._studio.backbone, _chunks(self._photos)[0]).error.mean())

    def _drift(self) -> float:
        change = self._answers(self._class) - self._base_answers
        return float(change.square().mean() / self._base_answers.square().mean())

    def _answers(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return torch.cat([denoise(self._studio.backbone, part).prediction for part in _chunks(batch)])

    def _photo_prompts(self) -> list[str]:
        template = self._studio.recipe.data.prompts[0]
        return [owner.prompt(template) for owner in self._studio.concept.owners]

    def _fixed(self, posterior: Posterior, prompts: list[str], purpose: str) -> Batch:
        """Every picture at `TIMES` evenly spaced times, always with the same noise."""
        rows = [row for row in range(len(prompts)) for _ in range(TIMES)]
        spelled = [prompts[row] for row in rows]
        batch = self._studio.batch(posterior, rows, spelled, range(len(rows)), purpose=purpose)
        middle = torch.tensor([(index % TIMES + 0.5) / TIMES for index in range(len(rows))])
        times = self._studio.backbone.schedule.timesteps(middle.to(batch.latents.device))
        return replace(batch, t=times)


def _chunks(batch: Batch) -> list[Batch]:
    return [batch.part(start, start + CHUNK) for start in range(0, len(batch.prompts), CHUNK)]


def _share(value: float, span: tuple[float, float]) -> float:
    """Where `value` stands between the two ends of `span`, in [0, 1]."""
    low, high = span
    if math.isclose(low, high):
        return 0.0
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _harmonic(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second > 0 else 0.0
