"""One training loop for every network of the base: resumable bit for bit, stoppable, with averaged weights.

The learning rate warms up, stays, and comes down in a stretch of its own: any stretch can be the last.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor, nn

from modalities.core.errors import RunFailed
from modalities.core.files import replacing
from modalities.core.progress import Progress, StopRequest
from modalities.mini import muon, team

SECONDS_BETWEEN_SAVES = 150.0


@dataclass(frozen=True)
class Stretch:
    """A run of optimizer steps from `first` to `last`; steps are counted on from earlier stretches.

    The rate rises over the first `warmup` steps ever, and falls to zero over the last `anneal` of this one.
    """

    first: int
    last: int
    learning_rate: float
    warmup: int = 0
    anneal: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = min(1.0, (self.last - step) / self.anneal) if self.anneal else 1.0
        return self.learning_rate * rise * fall


@dataclass(frozen=True)
class Outcome:
    """What a stretch ended with. `is_finished` is False when it was asked to stop before its last step."""

    step: int
    is_finished: bool


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step: the same however often training was interrupted before it."""
    return np.random.default_rng([seed, step])


def step_noise(seed: int, step: int) -> torch.Generator:
    """The same for torch, on the CPU, so that every device draws alike."""
    return torch.Generator().manual_seed(int(step_rng(seed, step).integers(2**62)))


class Trainer:
    """Weights, their running average and the optimizers' state, with one file on disk that holds all of it.

    Parameters that need no gradient stay as they are.
    Matrices inside the net learn by Muon, all else (vectors, embeddings, the narrow ends) by AdamW; embeddings
    `embedding_rate` times as fast.
    """

    def __init__(self, module: nn.Module, path: Path, average: float = 0.999, embedding_rate: float = 1.0) -> None:
        self.module, self.path, self.average = module, path, average
        self._learned = [p for p in module.parameters() if p.requires_grad]
        self.averaged = [p.detach().clone() for p in self._learned]
        embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
        inner = [p for p in self._learned if muon.takes(p) and id(p) not in embeddings]
        chosen = {id(p) for p in inner}
        outer = [p for p in self._learned if id(p) not in chosen]
        groups = [
            {"params": [p for p in outer if id(p) not in embeddings], "factor": 1.0},
            {"params": [p for p in outer if id(p) in embeddings], "factor": embedding_rate},
        ]
        self.optimizers = [
            muon.Muon(inner, lr=0.0),
            torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
        ]
        self.step = 0

    def save(self) -> None:
        """Write everything that the next step depends on."""
        state = {
            "step": self.step,
            "module": self.module.state_dict(),
            "averaged": self.averaged,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        if team.rank() == 0:
            with replacing(self.path) as temporary:
                torch.save(state, temporary)
        team.wait()

    def load(self, path: Path) -> None:
        """Go on from a saved file, this trainer's own or that of an earlier stretch."""
        device = next(self.module.parameters()).device
        state = torch.load(path, map_location=device, weights_only=True)
        self.step = state["step"]
        self.module.load_state_dict(state["module"])
        self.averaged = state["averaged"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def use_averaged(self) -> None:
        """Put the averaged weights into the module; training cannot go on from there."""
        with torch.no_grad():
            for parameter, averaged in zip(self._learned, self.averaged, strict=True):
                parameter.copy_(averaged)

    def train(
        self,
        loss: Callable[[int], Tensor],
        stretch: Stretch,
        stage: str,
        progress: Progress,
        stop: StopRequest,
    ) -> Outcome:
        """Run `stretch`, calling `loss(step)` for each step, saving every few minutes and at the end."""
        if self.path.exists():
            self.load(self.path)
        progress.start(stage, stretch.last - stretch.first, done=self.step - stretch.first)
        saved, smooth = monotonic(), math.nan
        self.module.train()
        is_stopped = False
        while self.step < stretch.last and not is_stopped:
            flags = (bool(stop), monotonic() - saved > SECONDS_BETWEEN_SAVES)
            value, (is_stopped, is_due) = self._one_step(loss, stretch.rate(self.step), flags)
            smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
            progress.advance(loss=smooth)
            if is_due:
                self.save()
                saved = monotonic()
        self.save()
        return Outcome(self.step, is_finished=self.step >= stretch.last)

    def _one_step(self, loss: Callable[[int], Tensor], rate: float, flags: Sequence[bool]) -> tuple[float, list[bool]]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
            optimizer.zero_grad(set_to_none=True)
        error = loss(self.step)
        value = float(error.detach())
        if not math.isfinite(value):
            raise RunFailed(f"{self.path.parent.name}: the loss became {value} at step {self.step}.")
        error.backward()
        raised = team.averaged([p.grad for p in self._learned if p.grad is not None], flags)
        nn.utils.clip_grad_norm_(self._learned, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        # Young averages forget faster, so that the random start does not linger in them.
        keep = min(self.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self._learned, 1 - keep)
        return value, raised
