"""Several bases against the same photos, whose changes are averaged: E-ASPL (Van Le et al., ICCV 2023, section 4.3).

https://arxiv.org/abs/2303.15433
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modalities.core.step import Step
from protect import budget
from protect.cloak import Canvas, Cloak
from protect.recipe import Act


class Ensemble:
    """Cloaks of the same photos, each with a base and surrogates of its own, one or more; works as one cloak does."""

    def __init__(self, cloaks: list[Cloak]) -> None:
        self._cloaks = cloaks

    @property
    def canvases(self) -> list[Canvas]:
        """The photos, as the first base has them; after an `agree` all have them so."""
        return self._cloaks[0].canvases

    @property
    def acts(self) -> list[Act]:
        return self._cloaks[0].acts

    @property
    def done(self) -> int:
        return self._cloaks[0].done

    @property
    def most_draws(self) -> int:
        return self._cloaks[0].most_draws

    def advance(self) -> float:
        """Let every base do the next act; return their mean loss, NaN where nothing was asked."""
        act = self.acts[self.done]
        losses = [cloak.advance() for cloak in self._cloaks]
        if act.verb == "agree":
            self._agree()
        asked = [loss for loss in losses if math.isfinite(loss)]
        return sum(asked) / len(asked) if asked else math.nan

    def _agree(self) -> None:
        for canvases in zip(*(cloak.canvases for cloak in self._cloaks), strict=True):
            mean = torch.stack([canvas.delta for canvas in canvases]).mean(0)
            for canvas in canvases:
                canvas.delta = budget.kept(mean, canvas.reach, canvas.levels)
                canvas.broken = any(one.broken for one in canvases)

    def ask(self, rows: list[int], number: int) -> list[tuple[list[Tensor], Step | None]]:
        """What every base answers, as `Cloak.ask`."""
        return [cloak.ask(rows, number) for cloak in self._cloaks]

    # -- its state -------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Everything that goes on exactly from here."""
        tensors, about = dict[str, Tensor](), dict[str, str]()
        for number, cloak in enumerate(self._cloaks):
            own, told = cloak.state()
            tensors |= {f"{number}:{key}": value for key, value in own.items()}
            about |= {f"{number}:{key}": value for key, value in told.items()}
        return tensors, about

    def restore(self, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        """Go to where `state` was taken."""
        for number, cloak in enumerate(self._cloaks):
            head = f"{number}:"
            cloak.restore(
                {key.removeprefix(head): value for key, value in tensors.items() if key.startswith(head)},
                {key.removeprefix(head): value for key, value in about.items() if key.startswith(head)},
            )
