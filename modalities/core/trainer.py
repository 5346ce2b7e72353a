"""One training step and what it carries from one to the next: phases, batch, loss, optimizer."""

from __future__ import annotations

import math
import time
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import Parameter

from modalities.core import generate
from modalities.core.backbone import Posterior
from modalities.core.recipe import Phase, Train
from modalities.core.step import Batch, denoise
from modalities.core.studio import Studio

SLOW_PROBE_SECONDS = 5.0


class Diverged(Exception):
    """The loss or the gradient is no number any more; nothing was changed by this step."""


class Trainer:
    """Takes steps: draw a batch, ask the base, add the components' losses, step the optimizer.

    What a step does is a function of (recipe, photos, base, step number, weights, moments) alone.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.step = 0
        self.phases = studio.recipe.stretches()
        self.total = sum(phase.steps for phase in self.phases)
        self._optimizer: torch.optim.Optimizer | None = None
        studio.backbone.checkpoint_gradients(studio.recipe.train.gradient_checkpointing)

    @cached_property
    def posterior(self) -> Posterior:
        """The encoded photos, mirrored ones among them if the recipe says so."""
        return self.studio.encode(self.studio.concept.all_photos, flip=self.studio.recipe.data.flip)

    @property
    def last_phase_start(self) -> int:
        """Steps before the last phase."""
        return self.total - self.phases[-1].steps

    def advance(self) -> float:
        """Do one step; return its loss.

        Raises:
            Diverged: before anything was changed.
        """
        phase, done = self._phase()
        if done == 0 or self._optimizer is None:
            self._optimizer = self._new_optimizer(phase)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate(self.studio.recipe.train, done, phase.steps)
        loss = self.loss(self.batch())
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value}")
        loss.backward()
        self._clip()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return value

    def batch(self) -> Batch:
        """The batch of the current step, with what the components add."""
        size = self.studio.recipe.train.batch
        positions = range(self.step * size, (self.step + 1) * size)
        studio, templates, owners = self.studio, self.studio.recipe.data.prompts, self.studio.concept.owners
        prompts = [
            owners[studio.photo_at(position)].prompt(templates[studio.draws.pick("prompt", position, len(templates))])
            for position in positions
        ]
        rows = [studio.view_at(position) for position in positions]
        batch = studio.batch(self.posterior, rows, prompts, positions, purpose="subject")
        for part in studio.components:
            batch = part.batch(batch)
        return batch

    def loss(self, batch: Batch) -> Tensor:
        """Reconstruction loss on the subject's items, plus what the components add; a scalar."""
        step = denoise(self.studio.backbone, batch)
        loss = step.error[~batch.is_prior].mean()
        for part in self.studio.components:
            added = part.loss(step, batch)
            loss = loss if added is None else loss + added
        return loss

    # -- phases and optimizer --------------------------------------------------------------------------------

    def _phase(self) -> tuple[Phase, int]:
        """The current phase and how many of its steps are done."""
        done = self.step
        for phase in self.phases:
            if done < phase.steps:
                return phase, done
            done -= phase.steps
        return self.phases[-1], self.phases[-1].steps

    def _new_optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        self.studio.set_learning(phase.learn)
        groups = [
            {"params": list(self.studio.learned_by(name).values()), "lr": learning_rate, "initial_lr": learning_rate}
            for name, learning_rate in phase.learn.items()
            if self.studio.learned_by(name)
        ]
        decay = self.studio.recipe.train.weight_decay
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=decay, eps=1e-8, foreach=True)

    def _learning(self) -> list[Parameter]:
        assert self._optimizer is not None
        return [value for group in self._optimizer.param_groups for value in group["params"]]

    def _clip(self) -> None:
        limit = self.studio.recipe.train.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self._learning(), math.inf if limit is None else limit)
        if not math.isfinite(float(norm)):
            raise Diverged(f"the gradient is {float(norm)}")

    # -- its state -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Weights and moments, from which training goes on exactly."""
        tensors = {f"weights/{name}": value for name, value in self.studio.weights().items()}
        if self._optimizer is not None:
            for number, value in enumerate(self._learning()):
                state = self._optimizer.state[value]
                tensors |= {f"optimizer/{number}/{key}": part.cpu().contiguous() for key, part in state.items()}
        return tensors

    def restore(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Go to where `state` was taken, after `step` steps."""
        self.step = step
        weights = {name.removeprefix("weights/"): part for name, part in tensors.items() if name.startswith("weights/")}
        self.studio.load(weights)
        phase, done = self._phase()
        self._optimizer = self._new_optimizer(phase)
        if done == 0:
            return
        for number, value in enumerate(self._learning()):
            prefix = f"optimizer/{number}/"
            state = {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
            self._optimizer.state[value] = {
                key: part if key == "step" else part.to(value.device) for key, part in state.items()
            }

    # -- trying ----------------------------------------------------------------------------------------------

    def probe(self) -> tuple[float, float]:
        """Seconds of one training step and of one preview; leaves no trace, draws being keyed."""
        self.studio.set_learning(self.phases[-1].learn)
        per_step = self._timed_step()
        # The first step pays for start-up; a second is tried unless the first was slow in itself.
        if per_step < SLOW_PROBE_SECONDS:
            per_step = self._timed_step()
        for _, value in self.studio.parameters():
            value.grad = None
        with self.studio.at_rest():
            return per_step, generate.seconds_per_preview(self.studio)

    def _timed_step(self) -> float:
        started = time.monotonic()
        self.loss(self.batch()).backward()
        return time.monotonic() - started


def rate(settings: Train, done: int, steps: int) -> float:
    """Factor on the learning rate after `done` of `steps` steps: linear warm-up, then the schedule."""
    if done < settings.warmup:
        return (done + 1) / settings.warmup
    if settings.schedule == "constant":
        return 1.0
    part = (done - settings.warmup) / max(1, steps - settings.warmup)
    fall = 1 - part if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * part))
    return 0.1 + 0.9 * fall
