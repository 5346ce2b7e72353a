"""Several subjects, each in its own part of the picture (Mix-of-Show, Gu et al., NeurIPS 2023, section 4.3).

https://arxiv.org/abs/2305.18292, "regionally controllable sampling".
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, PrivateAttr, field_validator

from modalities.core.component import Component, Template
from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from modalities.core.attention import Attend, Place

Box = tuple[float, float, float, float]


class Regions(Component):
    """While generating, each subject's region reads a prompt of that subject alone, the rest the whole prompt.

    Learns nothing, so any run of several subjects can take it: `pcs generate RUN "a {1} beside a {2} in the snow"
    --set components.regions={}` puts them side by side.
    """

    draws: ClassVar[bool] = True

    boxes: list[Box] | None = None
    """Of each subject left, top, right and bottom in shares of the side; None puts them side by side."""
    prompt: Template = "a photo of a {}"
    """What is read in a region; the slot takes its subject."""
    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the times, from noise on, at which regions read their own."""

    _states: dict[int, Tensor] = PrivateAttr(default_factory=dict)
    _is_on: bool = PrivateAttr(default=True)

    @field_validator("boxes")
    @classmethod
    def _are_boxes(cls, boxes: list[Box] | None) -> list[Box] | None:
        for left, top, right, bottom in boxes or []:
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(f"[{left}, {top}, {right}, {bottom}] is no box: left, top, right, bottom from 0 to 1")
        return boxes

    def _placed(self) -> list[Box]:
        count = len(self.studio.concept.subjects)
        if self.boxes is None:
            return [(number / count, 0.0, (number + 1) / count, 1.0) for number in range(count)]
        if len(self.boxes) != count:
            raise PcsError(f"regions.boxes: has {len(self.boxes)} boxes for {count} subjects; give one for each.")
        return self.boxes

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        import torch

        from modalities.core.attention import opened
        from modalities.core.sampling import is_early

        backbone = self.studio.backbone
        if any(part.name in ("token_table", "token_mapper") for part in self.studio.components):
            raise PcsError("regions: cannot read words that change with layer and time.")
        prompts = [one.prompt(self.prompt) for one in self.studio.concept.subjects]
        with torch.no_grad():
            states = backbone.embed(prompts).tensors["encoder_hidden_states"]
        boxes = self._placed()

        def watch(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
            self._is_on = is_early(backbone, (args, given), self.until)

        def attend(place: Place, inner: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            answer = inner(query, key, value)
            if not place.crosses or not self._is_on:
                return answer
            # What has no prompt comes first.
            told = slice(len(query) // 2 if pipeline.do_classifier_free_guidance else 0, None)
            side = round(query.shape[2] ** 0.5)
            total, weight = torch.zeros_like(answer[told]), answer.new_zeros(side * side, 1)
            for box, words in zip(boxes, states, strict=True):
                inside = _inside(box, side).to(answer)
                keys, values = (place.heads(to(words[None])) for to in (place.layer.to_k, place.layer.to_v))
                every = (len(total), -1, -1, -1)
                total = total + inside * inner(query[told], keys.expand(every), values.expand(every))
                weight = weight + inside
            inner_part = torch.where(weight > 0, total / weight.clamp(min=1e-6), answer[told])
            return torch.cat([answer[: told.start], inner_part])

        with ExitStack() as stack:
            stack.enter_context(opened(backbone.denoiser, attend))
            handle = backbone.denoiser.register_forward_pre_hook(watch, with_kwargs=True)
            stack.callback(handle.remove)
            yield


def _inside(box: Box, side: int) -> Tensor:
    """Which places of a map of `side` are in a box, `(side * side, 1)`."""
    import torch

    middle = (torch.arange(side) + 0.5) / side
    left, top, right, bottom = box
    rows, columns = (middle >= top) & (middle < bottom), (middle >= left) & (middle < right)
    return (rows[:, None] & columns[None]).flatten()[:, None].float()
