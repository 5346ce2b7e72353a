"""What a protection recipe may say: a core recipe for the surrogate, and how the photos are pushed against it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from modalities.core.recipe import Positive, Recipe, Section

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


class Budget(Section):
    """How far a colour value of the saved file may be from the photo's."""

    levels: Annotated[float, Field(ge=1, le=128)] = 8.0
    """Largest change, in levels of 0..255, whatever the depth of the file; a part of a level is not used."""
    texture: Share = 0.0
    """Share of the budget that flat areas lose, where a change is seen most; busy areas keep all of it."""


class Views(Section):
    """How trainers may load a photo; every ascent step looks through one of these views at random."""

    plain: Share = 0.5
    """Share of views that are what the published trainers make: the centre square, resized by Lanczos."""
    zoom: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Other views are squares anywhere in the photo, of at least this share of its shorter side."""
    flip: bool = False
    """Mirror half of the views."""
    jpeg: list[Annotated[int, Field(ge=1, le=100)]] = []
    """Qualities of JPEG that some views go through."""
    halve: bool = False
    """Some views are scaled to half the size and back."""
    blur: NotNegative = 0.0
    """Some views are blurred; standard deviation in pixels of the photo."""
    noise: NotNegative = 0.0
    """Some views get Gaussian noise; standard deviation in [0, 1]."""


class Term(Section):
    """One part of what the ascent is after."""

    term: str
    """A function of `protect/objective.py`."""
    goal: Literal["max", "min"] = "max"
    weight: Annotated[float, Field(gt=0)] = 1.0
    image: Path | None = None
    """The picture that a targeted term pulls towards; None is a high-contrast pattern."""


class Ascent(Section):
    """One step of projected gradient ascent on the sign of the gradient (Madry et al., ICLR 2018)."""

    size: Annotated[float, Field(gt=0)] = 1.0
    """Length of a step in levels."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the length falls over the program: not, to a hundredth, or as half a cosine."""
    start: Literal["zero", "random"] = "zero"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the earlier direction that is kept (Dong et al., CVPR 2018)."""
    gradient: Literal["full", "two_stage", "vae_only", "encoder"] = "full"
    """Way of the gradient to the pixels: through denoiser and autoencoder; the same, one after the other in less
    memory; with the denoiser's residual in place of its gradient; through the encoder alone."""
    merit: bool = False
    """Shorten each step by half a cosine of its diffusion time: the noisier, the shorter (DisDiff's merit sampling)."""
    batch: Positive = 1
    """Photos in one pass."""
    draws: Positive = 1
    """Views, times and noises that the direction of a step is averaged over."""


class Times(Section):
    """The diffusion times that ascent and surrogate see."""

    low: Share = 0.0
    high: Share = 1.0

    @model_validator(mode="after")
    def _in_order(self) -> Times:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class Act(Section):
    """One thing that a program does; exactly one of its verbs, whose value names a surrogate."""

    fork: str | None = None
    """Copy the main surrogate to this name."""
    train: str | None = None
    """Train the surrogate of this name."""
    perturb: str | None = None
    """Push the photos against the surrogate of this name."""
    joint: str | None = None
    """Push the photos, and train this surrogate on the same batch (CAAT)."""
    keep: str | None = None
    """Keep the surrogate of this name as the next snapshot."""
    recall: str | None = None
    """Put the next snapshot, in turn, in place of the surrogate of this name."""
    choose_times: str | None = None
    """Choose for each photo the times at which its gradient is largest, and keep to them (SimAC)."""
    agree: str | None = None
    """Average the changes that the bases of an ensemble have come to (E-ASPL)."""
    photos: Literal["originals", "protected"] = "originals"
    """What to train on."""
    steps: Positive = 1

    @model_validator(mode="after")
    def _one_verb(self) -> Act:
        if sum(value is not None for value in (getattr(self, verb) for verb in VERBS)) != 1:
            raise ValueError(f"needs exactly one of {', '.join(VERBS)}")
        return self

    @property
    def verb(self) -> str:
        return next(verb for verb in VERBS if getattr(self, verb) is not None)

    @property
    def who(self) -> str:
        """The surrogate that it is about."""
        return str(getattr(self, self.verb))


VERBS = ("fork", "train", "perturb", "joint", "keep", "recall", "choose_times", "agree")


class Stage(Section):
    """Acts that are done one after another, several times over."""

    repeat: Positive = 1
    do: Annotated[list[Act | Stage], Field(min_length=1)]

    def acts(self) -> list[Act]:
        """Everything that it does, each act one step long."""
        once = [one for item in self.do for one in (item.acts() if isinstance(item, Stage) else [item] * item.steps)]
        return once * self.repeat


class Output(Section):
    """The files that are written."""

    format: Literal["same", "png", "jpeg"] = "same"
    """`same` keeps every photo's own format."""
    quality: Annotated[int, Field(ge=50, le=100)] = 95
    """Of JPEG files, which are written without chroma subsampling; raised where the budget needs it."""
    strip_gps: bool = False
    """Leave out where a photo was taken; everything else of the metadata stays."""


class Protection(Recipe):
    """A protection: `components`, `data` and `train` are the surrogate's, the rest is how photos are changed."""

    ensemble: list[str] = []
    """Further bases, each with a surrogate of its own; the same base again is a surrogate with other draws."""
    budget: Budget = Budget()
    views: Views = Views()
    objective: Annotated[list[Term], Field(min_length=1)] = [Term(term="denoise")]
    ascent: Ascent = Ascent()
    times: Times = Times()
    program: Annotated[list[Stage], Field(min_length=1)] = [Stage(do=[Act(perturb="main", steps=100)])]
    together: Positive = 8
    """Photos that share a surrogate; more than these are protected in groups, so memory does not grow."""
    output: Output = Output()

    def acts(self) -> list[Act]:
        """The whole program, each act one step long."""
        return [act for stage in self.program for act in stage.acts()]

    def count(self, *verbs: str) -> int:
        """Steps of the program that are one of these verbs."""
        return sum(act.verb in verbs for act in self.acts())
