"""Two subjects cut into one picture, to be told apart: Cut-Mix-Unmix (SVDiff, Han et al., ICCV 2023, section 3.3).

https://arxiv.org/abs/2303.11305
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, PrivateAttr

from modalities.core.component import Component
from modalities.core.concept import fill
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.backbone import Posterior
    from modalities.core.step import Batch, Step
    from modalities.core.studio import Studio
    from modalities.core.text_attention import TextAttention

# Components whose words, masks or places are those of single photos.
OF_PHOTOS = ("attention_localisation", "captions", "geometric_augmentation", "masked_loss")


def _with_both(prompt: str) -> str:
    if prompt.count("{1}") != 1 or prompt.count("{2}") != 1:
        raise ValueError('needs the slots "{1}" of the left and "{2}" of the right once each')
    return prompt


class CutMix(Component):
    """In some items shows the middles of photos of two subjects side by side, and says so.

    The noise and the time of an item stay. List it before components that add items.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.6
    """How many of the items show two subjects; the others tell what belongs to each."""
    prompts: Annotated[list[Annotated[str, AfterValidator(_with_both)]], Field(min_length=1)] = [
        "photo of a {1} on the left and a {2} on the right",
        "photo of a {1} and a {2}",
    ]
    """One of them, in turn; {1} takes the left subject, {2} the right one."""
    unmix: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the mean square of each subject's attention, over its maximum, in the other's half."""

    _photos: Posterior = PrivateAttr()
    _owners: list[int] = PrivateAttr(default_factory=list[int])
    _looks: TextAttention | None = PrivateAttr(default=None)

    def prepare(self, studio: Studio) -> None:
        super().prepare(studio)
        if not studio.training:
            return
        if not studio.concept.others:
            raise PcsError("cut_mix: mixes several subjects; give the photos and the --noun of two or more.")
        for name in OF_PHOTOS:
            if studio.recipe.component(name):
                raise PcsError(f"cut_mix: makes pictures of two photos, where {name} would take one; drop one.")
        if self.unmix:
            from modalities.core.text_attention import TextAttention

            self._looks = TextAttention(studio.backbone.denoiser)
        flip = studio.recipe.data.flip
        self._photos = studio.encode(studio.concept.all_photos, flip=flip)
        self._owners = [
            number for number, one in enumerate(studio.concept.subjects) for _ in range(len(one.photos) * (1 + flip))
        ]

    def pair(self, position: int) -> tuple[int, int] | None:
        """The photos, counted with mirrored ones, on the left and right of item `position`, if it shows two."""
        studio, draws = self.studio, self.studio.draws
        if draws.chance("cut-mix", position) >= self.share:
            return None
        own = studio.view_at(position)
        others = [view for view, owner in enumerate(self._owners) if owner != self._owners[own]]
        other = others[draws.pick(f"cut-mix with {self._owners[own]}", position, len(others))]
        return (own, other) if draws.pick("cut-mix side", position, 2) else (other, own)

    def batch(self, batch: Batch) -> Batch:
        import torch

        rows = zip(batch.positions, batch.is_prior.tolist(), strict=True)
        pairs = [None if is_prior else self.pair(position) for position, is_prior in rows]
        if not any(pairs):
            return batch
        halves = [
            _middle(
                self.studio.batch(
                    self._photos,
                    [one[side] if one else 0 for one in pairs],
                    batch.prompts,
                    batch.positions,
                    purpose=f"cut-mix {side}",
                ).latents,
                side,
            )
            for side in (0, 1)
        ]
        is_mixed = torch.tensor([one is not None for one in pairs], device=batch.latents.device)
        prompts = zip(batch.prompts, batch.positions, pairs, strict=True)
        return replace(
            batch,
            latents=torch.where(is_mixed.view(-1, 1, 1, 1), torch.cat(halves, -1), batch.latents),
            prompts=tuple(self._said(position, one) if one else said for said, position, one in prompts),
        )

    def _said(self, position: int, pair: tuple[int, int]) -> str:
        subjects = self.studio.concept.subjects
        template = self.prompts[self.studio.draws.pick("cut-mix prompt", position, len(self.prompts))]
        return fill(template, *(subjects[self._owners[view]].phrase for view in pair))

    def loss(self, step: Step, batch: Batch) -> Tensor | None:
        """The unmix term."""
        if self._looks is None:
            return None
        import torch

        strayed = [
            self._strayed(row, batch.prompts[row], side, view)
            for row in (~batch.is_prior).nonzero().flatten().tolist()
            for side, view in enumerate(self.pair(batch.positions[row]) or ())
        ]
        self._looks.forget()
        return self.unmix * torch.stack(strayed).mean() if strayed else step.error.new_zeros(())

    def _strayed(self, row: int, prompt: str, side: int, view: int) -> Tensor:
        """How much the half of the other subject looks at the words of the one on `side`."""
        from modalities.core.subject_mask import places_of

        assert self._looks is not None
        phrase = self.studio.concept.subjects[self._owners[view]].phrase
        looks = self._looks.of(row, places_of(self.studio.backbone, prompt, phrase))
        other = looks.tensor_split(2, dim=1)[1 - side]
        return other.square().mean()


def _middle(latents: Tensor, side: int) -> Tensor:
    """The middle of pictures `(b, c, h, w)`, as wide as the left (0) or the right (1) half of one."""
    width = latents.shape[-1]
    kept = width // 2 if side == 0 else width - width // 2
    start = (width - kept) // 2
    return latents[..., start : start + kept]
