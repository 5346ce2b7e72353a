"""The class first, then the subject: delayed conditioning (FastComposer, Xiao et al., 2023, section 4.3).

https://arxiv.org/abs/2305.10431
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from modalities.core.component import Component

if TYPE_CHECKING:
    from torch import Tensor


class DelayedSubject(Component):
    """While generating, the prompt says the class word at noisy times, where the layout is decided.

    The text then leads more and the subject less. Learns nothing, so any run can take it:
    `pcs generate RUN … --set components.delayed_subject.share=0.3`.
    """

    draws: ClassVar[bool] = True

    share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Of the times, from noise on."""

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        import torch

        from modalities.core.sampling import class_prompt, hearing

        backbone, length = self.studio.backbone, self.studio.backbone.schedule.length
        states: dict[str, Tensor] = {}

        def hear(prompts: list[str]) -> None:
            with torch.no_grad():
                plain = backbone.embed([class_prompt(self.studio, prompt) for prompt in prompts])
            states.update(plain.tensors)

        def swap(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
            if float(args[1] if len(args) > 1 else given["timestep"]) < (1 - self.share) * length:
                return None
            return args, given | {name: _last_are(given[name], rows) for name, rows in states.items()}

        with ExitStack() as stack:
            stack.enter_context(hearing(pipeline, hear))
            handle = backbone.denoiser.register_forward_pre_hook(swap, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
            yield


def _last_are(rows: Tensor, other: Tensor) -> Tensor:
    """The rows behind those of the empty prompt become others."""
    import torch

    return torch.cat([rows[: len(rows) - len(other)], other.to(rows)])
