"""The build recipe of the embedded base: every number that decides how it comes out."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError

from modalities.core.errors import PcsError
from modalities.core.mistakes import explained, mistaken
from modalities.core.recipe import Section

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class WorldSettings(Section):
    """What is rendered and said."""

    pictures: Positive
    """One subject, nothing else: the first ring."""
    varied: Positive
    """Pictures of the second ring: styles, accessories, finishes, two subjects."""
    clips: Positive


class AutoencoderSettings(Section):
    """The autoencoder. It has no attention, so cheap crops serve for most of its training."""

    channels: tuple[Positive, Positive, Positive]
    pictures: Positive
    """How many of the rendered pictures it learns from."""
    steps_on_crops: int
    steps_on_pictures: int
    batch_on_crops: Positive
    batch_on_pictures: Positive
    learning_rate: Rate
    warmup: int
    anneal: int
    average: Share
    foreign_share: Share
    """Share of each batch that is not of the mini world, for the sake of photos."""
    kl_weight: float
    halved_weight: float
    """Weight of the reconstruction at half the size, see `AutoencoderTask.loss`."""

    @property
    def steps(self) -> int:
        return self.steps_on_crops + self.steps_on_pictures


class DecoderSettings(Section):
    """More training of the decoder alone, which leaves the latents as they are."""

    steps_on_crops: int
    steps_on_pictures: int
    learning_rate: Rate
    warmup: int
    average: Share

    @property
    def steps(self) -> int:
        return self.steps_on_crops + self.steps_on_pictures


class TogetherSettings(Section):
    """Training of encoder and decoder together, on whole pictures, when all else has learned from the latents."""

    pictures: Positive
    """How many of the rendered pictures it learns from."""
    steps: Positive
    learning_rate: Rate
    warmup: int
    anneal: int
    average: Share
    hold: float
    """Weight of the squared distance of latents from those that the denoiser learned from."""
    foreign_share: Share
    """As in `AutoencoderSettings`."""


class Lesson(Section):
    """What the denoiser learns from until step `until`, counted from its very first."""

    until: Positive
    captions: Positive
    """Different captions of each picture."""
    named_views: Share
    """How often the captions of the first ring name a view that has a name."""
    varied_share: Share = 0.0
    """Share of each batch from the second ring."""
    frame_share: Share = 0.0
    """Share of each batch that are frames of clips."""


class DenoiserSettings(Section):
    """The text encoder and the UNet. The last lesson may grow later; all else starts training anew."""

    channels: tuple[Positive, Positive, Positive]
    head_width: Positive
    text_width: Positive
    text_layers: Positive
    prediction: Literal["epsilon", "v_prediction"]
    snr_limit: float
    batch: Positive
    learning_rate: Rate
    warmup: int
    caption_dropout: Share
    average: Share
    lessons: Annotated[tuple[Lesson, ...], Field(min_length=1)]

    @property
    def steps(self) -> int:
        return self.lessons[-1].until


class AnnealSettings(Section):
    """The last stretch of the denoiser, in which the learning rate falls to zero."""

    steps: Positive


class ProbeSettings(Section):
    """The classifier that judges what the base draws."""

    widths: tuple[Positive, ...]
    steps: Positive
    batch: Positive
    learning_rate: Rate


class MotionProbeSettings(Section):
    """The classifier that judges clips."""

    widths: tuple[Positive, ...]
    steps: Positive
    batch: Positive
    learning_rate: Rate


class VideoSettings(Section):
    """The temporal layers of the video UNet; every other tensor is the image UNet's."""

    batch: Positive
    """Clips."""
    noise_shift: Rate
    """How far times are drawn towards noise, where motion is decided: 1 spreads them evenly."""
    motion_weight: Rate = 1.0
    """How many times the errors that differ between the frames of a clip count, beside what they have in common."""
    learning_rate: Rate
    warmup: int
    average: Share
    steps: Positive
    """At the constant rate; may grow later."""
    anneal: Positive
    """Further steps, in which the learning rate falls to zero."""


class MotionWordsSettings(VideoSettings):
    """A stretch of more training of the temporal layers, and of words of motion that get a token of their own.

    What all single frames of two motions have in common, the image denoiser cannot learn to tell apart, nor the
    text encoder that learns with it. Prompts without these words are encoded as before.
    """

    added: Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]
    """These words, by the motion that they name."""
    share: Share
    """Share of each batch that are clips of these motions; the rest is of all."""
    embedding_rate: Rate
    """How many times faster their embeddings learn."""


class SubjectEncoderSettings(Section):
    """The network that knows an individual again."""

    widths: tuple[Positive, ...]
    families: Positive
    """How many individuals are rendered for it."""
    views: Annotated[int, Field(ge=2)]
    """Pictures of each."""
    classes: Positive
    """Classes in one batch."""
    individuals: Positive
    """Individuals in one batch, two pictures of each."""
    temperature: Rate
    class_weight: float
    """Weight of telling classes apart beside individuals."""
    steps: Positive
    learning_rate: Rate


class ClipSettings(Section):
    """The network that compares a picture with words."""

    width: Positive
    layers: Positive
    patch: Positive
    steps: Positive
    batch: Positive
    learning_rate: Rate


class CheckSettings(Section):
    """How drawings are made that a base is judged by."""

    pictures: Positive = 300
    clips: Positive = 60
    steps: Positive = 25
    guidance: float = 3.0


class BuildRecipe(Section):
    """All of it. `seed` decides every random number; `size` is the side of the pictures in pixels."""

    edition: Positive
    seed: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(gt=0, multiple_of=16)]
    vocabulary: Annotated[int, Field(gt=600)]
    world: WorldSettings
    autoencoder: AutoencoderSettings
    decoder: DecoderSettings
    together: tuple[TogetherSettings, ...]
    """One stretch after the other."""
    denoiser: DenoiserSettings
    anneal: AnnealSettings
    video: VideoSettings
    motion_words: tuple[MotionWordsSettings, ...]
    """One stretch after the other."""
    probe: ProbeSettings
    motion_probe: MotionProbeSettings
    subject_encoder: SubjectEncoderSettings
    clip: ClipSettings
    check: CheckSettings = CheckSettings()


def load(path: Path) -> BuildRecipe:
    """Read the `build` section of a base's YAML.

    Raises:
        PcsError: the file is missing, or holds something else; all mistakes at once.
    """
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
        return BuildRecipe.model_validate(listed["build"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise PcsError(f"{path}: is not a base with a build recipe ({error}).") from error
    except ValidationError as error:
        raise mistaken(explained(error, "build.", BuildRecipe), str(path)) from error
