"""The clips that a run learns from: which of their frames, encoded once, and the batches made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PrivateAttr

from modalities.core.component import Component
from modalities.video.learner import Source, source_of

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.backbone import Posterior
    from modalities.core.step import Batch
    from modalities.core.studio import Studio
    from modalities.video.backbone import VideoBackbone
    from modalities.video.concept import VideoConcept


class Footage(Component):
    """Frames are spread evenly in time over each clip's longest shot, unless it is said otherwise."""

    source: ClassVar[Source] = "clips"

    frames: Annotated[int, Field(gt=1)] | None = None
    """Frames of a clip, of those that are learned from and of those that are made; None is the base's own number."""
    rate: Annotated[float, Field(gt=0)] | None = None
    """Frames that are taken for each second of a clip; None spreads them over all of it."""
    start: Annotated[float, Field(ge=0)] | None = None
    """Seconds; where to begin in each clip."""
    stop: Annotated[float, Field(gt=0)] | None = None
    """Seconds; where to end."""
    appearance_invariant: bool = False
    """Leave out of captions where it happens, so that the motion is not tied to the place (VMC's prompts)."""

    noise_shift: Annotated[float, Field(gt=0)] = 1.0
    """Times of clips and their frames are drawn that much towards noise, where the layout and with it the motion is
    decided (Esser et al. 2024, arXiv:2403.03206, eq. 23); 1 leaves the base's own density."""

    _posterior: Posterior | None = PrivateAttr(default=None)
    _stills: Posterior | None = PrivateAttr(default=None)

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        backbone = self.backbone
        backbone.require_frames(self.count)
        if studio.training and self.clips.clips:
            self._tell()
            self._posterior = self._encoded("clip")
            if backbone.frames_per_latent > 1 and self._are_frames_needed():
                self._stills = self._encoded("stills")

    def _tell(self) -> None:
        """Say what is learned in place of a caption."""
        for number, said in enumerate(self.clips.captions):
            if self.caption(number) != said:
                self.studio.progress.note(f'the clip "{said}" is learned as "{self.caption(number)}"')

    def _are_frames_needed(self) -> bool:
        return any(source_of(part) == "frames" for part in self.studio.recipe.components)

    @property
    def backbone(self) -> VideoBackbone:
        """The base, which takes clips."""
        return self.studio.backbone  # pyright: ignore

    @property
    def clips(self) -> VideoConcept:
        """The clips with their captions."""
        return self.studio.concept  # pyright: ignore

    @property
    def count(self) -> int:
        """Frames of a clip."""
        return self.frames or self.backbone.usual_frames

    @property
    def posterior(self) -> Posterior:
        """The distribution of the latents of all clips, `(N, C, F, h, w)`."""
        assert self._posterior is not None, "a studio that only generates holds no clips"
        return self._posterior

    def caption(self, number: int) -> str:
        """What a clip is learned as."""
        from modalities.video.words import without_setting

        said = self.clips.captions[number]
        return without_setting(said) if self.appearance_invariant else said

    def chosen(self, number: int) -> tuple[int, ...]:
        """The frames that are taken of one clip."""
        return self.clips.clips[number].choose(self.count, self.rate, self.start, self.stop)

    def pixels(self, number: int) -> Tensor:
        """The frames that are taken of one clip, `(F, 3, side, side)` in [0, 1]."""
        return self.clips.clips[number].read(self.chosen(number), self.studio.resolution)

    def _encoded(self, kind: Literal["clip", "stills"]) -> Posterior:
        """All clips as they are, or all of their frames as pictures, clip after clip."""
        import torch

        from modalities.core.backbone import Posterior

        rows = [self._encoded_one(number, kind) for number in range(len(self.clips.clips))]
        mean, std = (torch.cat([row[name] for row in rows]).to(self.backbone.device) for name in ("mean", "std"))
        return Posterior(mean, std, float(rows[0]["shift"]), float(rows[0]["scale"]))

    def _encoded_one(self, number: int, kind: Literal["clip", "stills"]) -> dict[str, Tensor]:
        import torch

        def compute() -> dict[str, Tensor]:
            with torch.no_grad():
                pixels = self.pixels(number)
                one = self.backbone.encode_clips(pixels[None] if kind == "clip" else pixels[:, None])
            scalars = {name: torch.tensor(getattr(one, name), dtype=torch.float64) for name in ("shift", "scale")}
            return {"mean": one.mean.cpu(), "std": one.std.cpu(), **scalars}

        digest = self.clips.clips[number].digest
        key = (self.backbone.fingerprint, kind, digest, self.chosen(number), self.studio.resolution)
        return self.studio.cache.remember("latents", key, compute)

    def inversion(self) -> Tensor:
        """The noise that each learned clip comes from under the base without words, as MotionDirector keeps it.

        Returns:
            `(N, C, F, h, w)` on the CPU.
        """
        import torch

        from modalities.video.sampler import inverted

        posterior, steps = self.posterior, self.studio.recipe.sample.steps
        latents = (posterior.mean - posterior.shift) * posterior.scale
        return torch.cat([inverted(self.backbone, one[None], [""], steps) for one in latents]).cpu()

    def which(self, step: int) -> int:
        """The clip of a step: every one once, shuffled anew, then again."""
        return self.studio.draws.pick("clip", step, len(self.clips.clips))

    def clip_batch(self, step: int) -> Batch:
        """One whole clip with noise and time of its own."""
        row = self.which(step)
        batch = self.studio.batch(self.posterior, [row], [self.caption(row)], [step], purpose="clip")
        return self._shifted(batch, "clip time")

    def _shifted(self, batch: Batch, purpose: str) -> Batch:
        """The batch at noisier times, which follow from the same draws."""
        if self.noise_shift == 1:
            return batch
        uniform = self.studio.draws.uniform(purpose, batch.positions).to(batch.latents.device)
        noisier = self.noise_shift * uniform / (1 + (self.noise_shift - 1) * uniform)
        return replace(batch, t=self.backbone.schedule.timesteps(noisier))

    def frame_batch(self, step: int) -> Batch:
        """One frame of that clip, with the very noise that it has in the clip.

        Where the autoencoder packs several frames into one latent, frames are encoded as pictures of their own.
        """
        if self._stills is not None:
            return self._still_batch(self._stills, step)
        clip = self.clip_batch(step)
        frame = self.studio.draws.pick("frame", step, clip.latents.shape[2])
        some = slice(frame, frame + 1)
        return replace(clip, latents=clip.latents[:, :, some], noise=clip.noise[:, :, some])

    def _still_batch(self, stills: Posterior, step: int) -> Batch:
        clip = self.which(step)
        row = clip * self.count + self.studio.draws.pick("frame", step, self.count)
        batch = self.studio.batch(stills, [row], [self.caption(clip)], [step], purpose="frame")
        return self._shifted(batch, "frame time")
