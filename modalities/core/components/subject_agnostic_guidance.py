"""The scene and the subject guided apart: subject-agnostic guidance (SAG, Chan et al., CVPR 2024, section 3).

https://arxiv.org/abs/2405.01356
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, ClassVar

from pydantic import Field

from modalities.core.component import Component


class SubjectAgnosticGuidance(Component):
    """While generating, the denoiser is also asked with the class word in place of the subject.

    With its answers to nothing, to the class in the scene and to the subject in the scene, guidance goes
    `guidance * scene * (class - nothing) + guidance * subject * (subject - class)` from nothing; with both at 1 that is
    plain guidance. So the scene is led by a prompt that learned nothing of the photos, at the noisy times that decide
    it, and the subject by what is its own. A base that is asked without the empty prompt is led by `subject` alone.
    Takes half as long again. Learns nothing, so any run can take it:
    `pcs generate RUN … --set components.subject_agnostic_guidance.scene=2`.
    """

    draws: ClassVar[bool] = True

    scene: Annotated[float, Field(ge=0)] = 1.5
    """Times the guidance scale, from nothing to the class in the scene."""
    subject: Annotated[float, Field(ge=0)] = 1.0
    """Times the guidance scale, from the class to the subject."""
    scene_share: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Of the times, from noise on, at which `scene` counts; after them it is 1."""
    class_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Of the times, from noise on, at which the class alone is drawn."""

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        import torch

        from modalities.core.sampling import Classes, is_early

        backbone, classes = self.studio.backbone, Classes(self.studio)
        scene, subject = 1.0, 1.0

        def ask(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
            nonlocal scene, subject
            scene = self.scene if is_early(backbone, (args, given), self.scene_share) else 1.0
            subject = 0.0 if is_early(backbone, (args, given), self.class_share) else self.subject
            rows = len(given["encoder_hidden_states"])
            args, given = _and_again((args, given), rows, classes.count)
            return args, classes.told(given)

        def lead(module: Any, args: Any, output: Any) -> Any:
            *empty, own, plain = output[0].split(classes.count)
            start = empty[0] if empty else plain
            led = start + scene * (plain - start) + subject * (own - plain)
            return (torch.cat([*empty, led]), *output[1:])

        with ExitStack() as stack:
            stack.enter_context(classes.heard(pipeline))
            # Before words that change with layer and time are encoded, so that the subject's are.
            stack.callback(backbone.denoiser.register_forward_pre_hook(ask, with_kwargs=True, prepend=True).remove)
            stack.callback(backbone.denoiser.register_forward_hook(lead).remove)
            yield


def _and_again(value: Any, rows: int, count: int) -> Any:
    """Arguments of a denoiser with the last `count` of every `rows` rows once more behind them."""
    import torch

    if isinstance(value, torch.Tensor):
        return torch.cat([value, value[-count:]]) if value.ndim and len(value) == rows else value
    if isinstance(value, dict):
        return {name: _and_again(one, rows, count) for name, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_and_again(one, rows, count) for one in value)
    return value
