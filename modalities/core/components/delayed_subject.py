"""The class first, then the subject: delayed conditioning (FastComposer, Xiao et al., 2023, section 4.3).

https://arxiv.org/abs/2305.10431. That the class can have the last word as well is no part of that paper.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, ClassVar

from pydantic import Field

from modalities.core.component import Component


class DelayedSubject(Component):
    """While generating, the prompt says the class word at noisy times, where the layout is decided, or at the last ones.

    The text then leads more and the subject less. At the last times shape and colours stand already, and what the
    photos had around the subject, which its word has learned too, makes way for the scene that is asked for. Learns
    nothing, so any run can take it: `pcs generate RUN … --set components.delayed_subject.share=0.3`.
    """

    draws: ClassVar[bool] = True

    share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Of the times, from noise on."""
    last_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the times, the cleanest ones."""

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        from modalities.core.sampling import Classes, is_early

        backbone, classes = self.studio.backbone, Classes(self.studio)

        def swap(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
            call = args, given
            is_class = is_early(backbone, call, self.share) or not is_early(backbone, call, 1 - self.last_share)
            return (args, classes.told(given)) if is_class else None

        with ExitStack() as stack:
            stack.enter_context(classes.heard(pipeline))
            handle = backbone.denoiser.register_forward_pre_hook(swap, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
            yield
