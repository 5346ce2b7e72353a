"""The subject in place of the one in a photo, by attention of its inversion (PhotoSwap, Gu et al., NeurIPS 2023).

https://arxiv.org/abs/2305.18286, section 3.3.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, PrivateAttr

from modalities.core.component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.attention import Attend, Place

Share = Annotated[float, Field(ge=0, le=1)]


class PhotoSwap(Component):
    """While generating, a photo is denoised beside the picture and lends it its layout, for as long as the shares say.

    The prompt describes the photo with the subject in it; with the class word in its place it is the photo's own.
    Learns nothing, so any run can take it: `pcs generate RUN "a photo of a {}" --set components.photo_swap.photo=…`.
    """

    draws: ClassVar[bool] = True

    photo: Path
    """The photo whose thing is swapped."""
    cross: Share = 0.4
    """Steps, as a share from noise on, that take the photo's cross-attention maps."""
    maps: Share = 0.5
    """Steps that take its self-attention maps."""
    features: Share = 0.2
    """Steps that take the outputs of its self-attention."""

    _path: dict[int, Tensor] = PrivateAttr(default_factory=dict)
    _done: float = PrivateAttr(default=0.0)
    _words: Tensor = PrivateAttr()

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        from modalities.core.attention import opened
        from modalities.core.sampling import beside, hearing, replaced

        denoiser = self.studio.backbone.denoiser

        def begin(own: Any, *args: Any, **given: Any) -> Tensor:
            latents: Tensor = own(*args, **given)
            return self._path[max(self._path)].to(latents).expand_as(latents).clone()

        def noisy(time: float) -> Tensor | None:
            if not self._path:
                return None
            times = sorted(self._path, reverse=True)
            self._done = times.index(int(time)) / len(times)
            return self._path[int(time)]

        with ExitStack() as stack:
            stack.enter_context(hearing(pipeline, lambda prompts: self._invert(pipeline, prompts)))
            stack.enter_context(replaced(pipeline, "prepare_latents", begin))
            stack.enter_context(beside(denoiser, noisy, lambda: self._words))
            stack.enter_context(opened(denoiser, self._attend))
            yield

    def _invert(self, pipeline: Any, prompts: list[str]) -> None:
        """Go back from the photo to noise, at the times of the sampler."""
        from modalities.core.sampling import class_prompt, inverted, latents_of

        self._path = {}
        steps = self.studio.recipe.sample.steps
        pipeline.scheduler.set_timesteps(steps, device=self.studio.backbone.device)
        times = sorted({int(time) for time in pipeline.scheduler.timesteps})
        said = class_prompt(self.studio, prompts[0])
        self._words = self.studio.backbone.conditioning([said]).tensors["encoder_hidden_states"]
        self._path = inverted(self.studio, latents_of(self.studio, self.photo), said, times)

    def _attend(self, place: Place, inner: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        import torch

        from modalities.core.attention import maps

        answer = inner(query, key, value)
        # While the photo itself goes back to noise it is alone.
        if not self._path or len(query) == 1 or self._done >= (self.cross if place.crosses else self.maps):
            return answer
        # The last is the photo; what has the prompt comes before it, behind what has none.
        half = (len(query) - 1) // 2 if len(query) > 2 else 0
        told, photo = slice(half, -1), slice(-1, None)
        if not place.crosses and self._done < self.features:
            swapped = answer[photo].expand_as(answer[told])
        else:
            swapped = maps(query[photo], key[photo]) @ value[told]
        return torch.cat([answer[:half], swapped, answer[photo]])
