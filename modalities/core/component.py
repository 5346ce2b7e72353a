"""One idea from one paper, as a pydantic model that is its own settings, with at most five hooks."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from modalities.core.concept import Concept
    from modalities.core.step import Batch, Step
    from modalities.core.studio import Studio


def _with_slot(prompt: str) -> str:
    if prompt.count("{}") != 1:
        raise ValueError('needs the slot "{}" once, like "a photo of {}"')
    return prompt


Template = Annotated[str, AfterValidator(_with_slot)]
"""A prompt with exactly one slot `{}` for the subject or its class."""


class Component(BaseModel):
    """Base of all components; every hook does nothing until a component needs it.

    A component's name in a recipe is the name of its file. Settings are its fields; what it makes while it
    works lives in private attributes. A component is prepared once, for training or for generation.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    exclusive: ClassVar[str | None] = None
    """What only one component of a recipe can do, in words; those of the same words contradict one another."""

    draws: ClassVar[bool] = False
    """Whether it learns nothing and changes how pictures or clips are drawn, so that any finished run can take it."""

    _studio: Studio = PrivateAttr()

    @property
    def name(self) -> str:
        """The name that a recipe calls it by."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def studio(self) -> Studio:
        """The base, the concept and the randomness that `prepare` was given."""
        return self._studio

    def reads(self, concept: Concept) -> list[Path]:
        """The files beside the photos that it learns from: those that its settings name, or that lie in a folder.

        What a resumed run must find unchanged.
        """
        named = [value for _, value in self if isinstance(value, Path)]
        return [path for one in named for path in (sorted(one.iterdir()) if one.is_dir() else [one]) if path.is_file()]

    def prepare(self, studio: Studio) -> None:
        """Put the component in place on `studio.backbone`; make what it needs before the first step."""
        self._studio = studio

    def parameters(self) -> dict[str, Parameter]:
        """What the component learns, by a name that stays the same when it is saved and loaded (fp32)."""
        return {}

    def batch(self, batch: Batch) -> Batch:
        """Change one step's batch: add prior items, mix photos, choose other timesteps."""
        return batch

    def loss(self, step: Step, batch: Batch) -> Tensor | None:
        """Return a scalar to add to the reconstruction loss, or None."""
        return None

    @contextmanager
    def sampling(self, pipeline: Any) -> Generator[None]:
        """Change how `pipeline` generates inside the block; leaving it restores it bit for bit."""
        yield
