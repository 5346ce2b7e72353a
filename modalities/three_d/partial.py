"""The partial DreamBooth of DreamBooth3D (Raj et al., ICCV 2023, section 3.2), stopped while views still differ.

https://arxiv.org/abs/2303.13508. The paper stops after a fixed number of steps. Here the words for views are asked for
at every look: as the subject is learned, the view that the photos lack becomes a copy of one that they show.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from modalities.core import generate
from modalities.core.artifact import Artifact
from modalities.core.encoders import ImageEncoder
from modalities.core.machine import Machine
from modalities.core.personalize import Session
from modalities.core.studio import Studio
from modalities.core.validation import Look

SEEDS = 4


def view_diversity(studio: Studio, encoder: ImageEncoder, prompts: Sequence[str], seeds: int = SEEDS) -> float:
    """How far apart the two views are that are most alike.

    One minus the cosine of what the encoder sees in pictures of two of `prompts` from the same noise, a mean over
    `seeds` noises: 0 when one view has become the copy of another.
    """
    pictures = generate.previews(studio, list(prompts), seeds)
    seen = encoder(pictures).unflatten(0, (len(prompts), seeds))
    return min(1 - float((seen[a] * seen[b]).sum(-1).mean()) for a, b in combinations(range(len(prompts)), 2))


class PartialSession(Session):
    """Learns until views are less diverse than the share `keep` of the base's; the last step before is kept."""

    def __init__(self, run: Artifact, studio: Studio, machine: Machine, *, keep: float, prompts: Sequence[str]) -> None:
        """`prompts`: one for each view."""
        super().__init__(run, studio, machine)
        self._keep, self._prompts = keep, prompts
        self._found: list[float] = []

    def previews(self) -> int:
        return super().previews() + self.looks_planned() * len(self._prompts) * SEEDS

    def prepare(self) -> None:
        super().prepare()
        self._encoder = self.machine.encoders()[0]

    def _look(self) -> None:
        with self.studio.at_rest():
            self._found.append(view_diversity(self.studio, self._encoder, self._prompts))
        self.lines.append({"step": self.trainer.step, "view_diversity": self._found[-1]})
        self.progress.note(f"views are {self._found[-1] / max(self._found[0], 1e-6):.0%} as diverse as the base's")
        super()._look()

    @property
    def _is_diverse(self) -> bool:
        return self._found[-1] >= self._keep * self._found[0]

    def _is_best(self, look: Look) -> bool:
        """The newest that is diverse enough; the first if none is."""
        return self._is_diverse or self._kept() is None

    def _should_stop_early(self) -> bool:
        return len(self._found) > 1 and not self._is_diverse

    def _looks_of(self, lines: list[dict[str, Any]]) -> list[Any]:
        self._found = [line["view_diversity"] for line in lines if "view_diversity" in line]
        return super()._looks_of(lines)
