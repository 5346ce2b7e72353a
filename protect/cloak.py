"""Pushes a group of photos against its surrogate, step by step of a program, inside the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from modalities.core.backbone import Posterior
from modalities.core.draws import generator
from modalities.core.step import Step
from protect import budget, times, views
from protect.erasure import identifier_of
from protect.gradient import Question, of_pixels
from protect.lossy import rounded
from protect.objective import target_pixels
from protect.picture import Picture
from protect.recipe import Act, Protection
from protect.surrogate import Surrogate

# Sides to one another from which on a photo is looked at through several views a step.
LONG = 2.0


@dataclass
class Canvas:
    """One photo while it is worked on.

    Attributes:
        levels: of the untouched photo, `(1 or 3, H, W)` in 0..255.
        reach: largest change of each pixel, `(1, H, W)`.
        delta: the change so far.
        momentum: the directions so far, where the ascent keeps them.
        cover: opacity `(1, H, W)` in [0, 1] of a photo with alpha, which trainers put on white.
        saved: JPEG quality of its file; None loses nothing.
        times: the diffusion times that are used for it; None uses all that the recipe allows.
        broken: whether a gradient of it was no number.
    """

    levels: Tensor
    reach: Tensor
    delta: Tensor
    momentum: Tensor
    cover: Tensor | None
    saved: int | None
    times: Tensor | None = None
    broken: bool = field(default=False)

    @classmethod
    def of(cls, picture: Picture, recipe: Protection, saved: int | None) -> Canvas:
        """An untouched photo."""
        levels = torch.from_numpy(np.ascontiguousarray(picture.levels))
        reach = budget.radius(recipe.budget, levels, torch.from_numpy(picture.visible()).float())
        cover = None
        if picture.alpha is not None:
            cover = torch.from_numpy(picture.alpha.astype(np.float32) / np.iinfo(picture.alpha.dtype).max)[None]
        return cls(levels, reach, torch.zeros_like(levels), torch.zeros(0), cover, saved)

    def shown(self, delta: Tensor, box: tuple[int, int, int, int]) -> Float[Tensor, "3 h w"]:
        """What a viewer sees of a part after `delta`, rounded as a file is, in levels; differentiable."""
        left, top, right, bottom = box
        part = (slice(None), slice(top, bottom), slice(left, right))
        levels = (self.levels[part] + rounded(delta[part])).clamp(0, 255)
        if self.cover is not None:
            levels = levels * self.cover[part] + 255 * (1 - self.cover[part])
        return levels.expand(3, -1, -1)

    def whole(self) -> NDArray[np.int16]:
        """The change in whole levels, inside the budget."""
        return budget.whole(self.delta, self.reach).numpy()


class Cloak:
    """Protects photos that share a surrogate.

    What an act does is a function of (recipe, photos, base, number of the act, state) alone.

    Attributes:
        canvases: the photos while they are worked on.
        acts: the whole program, `done` of which are done.
        most_draws: views of a photo in a step, at most.
    """

    def __init__(
        self, pictures: list[Picture], saved: list[int | None], recipe: Protection, surrogate: Surrogate
    ) -> None:
        self.recipe = recipe
        self.surrogate = surrogate
        self.backbone = surrogate.studio.backbone
        self.canvases = [Canvas.of(picture, recipe, quality) for picture, quality in zip(pictures, saved, strict=True)]
        self.acts = recipe.acts()
        self.done = 0
        self._pushes = recipe.count("perturb", "joint")
        self.most_draws = max(self._draws(row) for row in range(len(self.canvases)))
        self._encoded: tuple[str, Posterior] | None = None
        with torch.no_grad():
            self._target = self.backbone.encode(target_pixels(recipe.objective, self.resolution)[None])
        surrogate.begin()
        if recipe.ascent.start == "random":
            for row, canvas in enumerate(self.canvases):
                chance = torch.rand(canvas.delta.shape, generator=generator(recipe.train.seed, "start", row))
                canvas.delta = budget.kept((2 * chance - 1) * canvas.reach, canvas.reach, canvas.levels)

    @property
    def resolution(self) -> int:
        """Side in pixels at which the surrogate looks at photos."""
        return self.surrogate.studio.resolution

    def advance(self) -> float:
        """Do the next act; return the loss of what was asked, NaN where nothing was."""
        act = self.acts[self.done]
        loss = self._do(act)
        self.done += 1
        return loss

    def _do(self, act: Act) -> float:
        surrogate = self.surrogate
        if act.verb == "train":
            return surrogate.train(act.who, self._views_to_train_on(act.photos))
        if act.verb in ("perturb", "joint"):
            surrogate.use(act.who)
            surrogate.rest()
            loss = self._push()
            self._encoded = None
            if act.verb == "joint":
                surrogate.train(act.who, self._views_to_train_on("protected"))
            return loss
        if act.verb == "choose_times":
            surrogate.use(act.who)
            for row in range(len(self.canvases)):
                self.canvases[row].times = times.chosen(self, row)
            return math.nan
        if act.verb == "agree":
            self._encoded = None
            return math.nan
        {"fork": surrogate.fork, "keep": surrogate.keep, "recall": surrogate.recall}[act.verb](act.who)
        return math.nan

    # -- training --------------------------------------------------------------------------------------------

    def _views_to_train_on(self, which: str) -> Posterior:
        """One encoded view of every photo, made anew whenever the photos have changed."""
        if self._encoded is None or self._encoded[0] != which:
            rows = range(len(self.canvases))
            chosen = [self._view(row, "training", self.done) for row in rows]
            with torch.no_grad():
                posteriors = [self.backbone.encode(self._seen([row], chosen[row : row + 1], which)[0]) for row in rows]
            first = posteriors[0]
            means, stds = (torch.cat([getattr(one, part) for one in posteriors]) for part in ("mean", "std"))
            self._encoded = which, Posterior(means, stds, first.shift, first.scale)
        return self._encoded[1]

    # -- pushing ---------------------------------------------------------------------------------------------

    def _push(self) -> float:
        """One step of every photo along the sign of its gradient; return the mean loss."""
        settings, losses = self.recipe.ascent, list[float]()
        number = sum(act.verb in ("perturb", "joint") for act in self.acts[: self.done])
        for start in range(0, len(self.canvases), settings.batch):
            rows = list(range(start, min(start + settings.batch, len(self.canvases))))
            directions = [torch.zeros_like(self.canvases[row].delta) for row in rows]
            merits: list[list[float]] = [[] for _ in rows]
            for draw in range(max(self._draws(row) for row in rows)):
                asked = [row for row in rows if draw < self._draws(row)]
                gradients, step = self.ask(asked, number * self.most_draws + draw)
                for row, gradient in zip(asked, gradients, strict=True):
                    directions[row - start] = directions[row - start] + gradient
                if step is not None:
                    losses.append(float(step.error.mean()))
                    for row, t in zip(asked, step.t.tolist(), strict=True):
                        merits[row - start].append(self._merit(t))
            for row, direction, merit in zip(rows, directions, merits, strict=True):
                self.move(self.canvases[row], direction, number, sum(merit) / len(merit) if merit else 1.0)
        return sum(losses) / len(losses) if losses else math.nan

    def _merit(self, t: float) -> float:
        """How much of a step's length is left at a diffusion time (DisDiff, Liu et al., ACM MM 2024).

        https://arxiv.org/abs/2405.20584
        """
        return 0.5 * (math.cos(math.pi * t / self.backbone.schedule.length) + 1) if self.recipe.ascent.merit else 1.0

    def _draws(self, row: int) -> int:
        """Views that a step of a photo looks through: more for a long one, of which each shows only a part."""
        short, long = sorted(self.canvases[row].levels.shape[-2:])
        return self.recipe.ascent.draws * math.ceil(long / short / LONG)

    def move(self, canvas: Canvas, direction: Tensor, number: int, merit: float = 1.0) -> None:
        """Step number `number` of one photo along the sign of a direction, inside the budget; `merit` of its length."""
        if not direction.isfinite().all():
            canvas.broken = True
            return
        settings = self.recipe.ascent
        if settings.momentum:
            canvas.momentum = canvas.momentum if canvas.momentum.numel() else torch.zeros_like(direction)
            canvas.momentum = settings.momentum * canvas.momentum + direction / direction.abs().mean().clamp(min=1e-12)
            direction = canvas.momentum
        part = number / max(1, self._pushes)
        falls = {"constant": 1.0, "linear": 1 - 0.99 * part, "cosine": 0.5 * (math.cos(math.pi * part) + 1)}
        moved = canvas.delta + settings.size * merit * falls[settings.schedule] * direction.sign()
        canvas.delta = budget.kept(moved, canvas.reach, canvas.levels)

    def ask(self, rows: list[int], number: int) -> tuple[list[Tensor], Step | None]:
        """The gradient of the objective at the change of these photos, through the views of draw `number`."""
        chosen = [self._view(row, "ascent", number) for row in rows]
        pixels, leaves = self._seen(rows, chosen, "protected")
        question = self._question(rows, chosen, number)
        at_pixels, step = of_pixels(self.backbone, self.recipe.objective, self.recipe.ascent.gradient, pixels, question)
        return list(torch.autograd.grad(pixels, leaves, at_pixels.to(pixels.device))), step

    def _question(self, rows: list[int], chosen: list[views.View], number: int) -> Question:
        original, shape = self._target, self._target.mean.shape[1:]
        if any(term.term == "latent_shift" for term in self.recipe.objective):
            with torch.no_grad():
                original = self.backbone.encode(self._seen(rows, chosen, "originals")[0])
        studio = self.surrogate.studio
        positions = [number * len(self.canvases) + row for row in rows]
        device = self.backbone.device
        normal, noise = (
            studio.draws.normal(f"ascent {what}", positions, shape).to(device) for what in ("latents", "noise")
        )
        prompts = self.recipe.data.prompts
        said = [
            studio.concept.prompt(prompts[studio.draws.pick("ascent prompt", one, len(prompts))]) for one in positions
        ]
        identifier = identifier_of(studio.concept)
        return Question(original, self._target, normal, noise, self._times(rows, positions), tuple(said), identifier)

    def _times(self, rows: list[int], positions: list[int]) -> Tensor:
        """The diffusion time of each photo."""
        settings, device = self.recipe.times, self.backbone.device
        uniform = self.surrogate.studio.draws.uniform("ascent time", positions)
        times = self.backbone.schedule.timesteps((settings.low + (settings.high - settings.low) * uniform).to(device))
        for place, row in enumerate(rows):
            allowed = self.canvases[row].times
            if allowed is not None:
                times[place] = allowed[int(uniform[place] * len(allowed))]
        return times

    # -- looking ---------------------------------------------------------------------------------------------

    def _view(self, row: int, *key: object) -> views.View:
        height, width = self.canvases[row].levels.shape[-2:]
        return views.drawn(self.recipe.views, height, width, self.recipe.train.seed, row, *key)

    def _seen(self, rows: list[int], chosen: list[views.View], which: str) -> tuple[Tensor, list[Tensor]]:
        """Pixels `(b, 3, r, r)` of photos through views, and the leaves that they depend on."""
        leaves = [self.canvases[row].delta.detach().requires_grad_(which == "protected") for row in rows]
        looks: list[Tensor] = []
        for row, view, leaf in zip(rows, chosen, leaves, strict=True):
            canvas = self.canvases[row]
            part, box = views.region(view, *canvas.levels.shape[-2:])
            shown = canvas.shown(leaf if which == "protected" else torch.zeros_like(leaf), box)
            saved = canvas.saved if which == "protected" else None
            looks.append(views.seen(shown, part, self.resolution, row, self.done, saved=saved))
        return torch.stack(looks), leaves

    # -- its state -------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Everything that goes on exactly from here."""
        tensors, about = self.surrogate.state()
        for row, canvas in enumerate(self.canvases):
            tensors |= {f"delta|{row}": canvas.delta.contiguous(), f"momentum|{row}": canvas.momentum}
            if canvas.times is not None:
                tensors[f"times|{row}"] = canvas.times
        if self._encoded is not None:
            tensors |= {"encoded|mean": self._encoded[1].mean, "encoded|std": self._encoded[1].std}
            about |= {"encoded": self._encoded[0]}
        broken = [str(row) for row, canvas in enumerate(self.canvases) if canvas.broken]
        return tensors, about | {"done": str(self.done), "broken": ",".join(broken)}

    def restore(self, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        """Go to where `state` was taken."""
        tensors = dict(tensors)
        for row, canvas in enumerate(self.canvases):
            canvas.delta, canvas.momentum = tensors.pop(f"delta|{row}"), tensors.pop(f"momentum|{row}")
            canvas.times = tensors.pop(f"times|{row}", None)
            canvas.broken = str(row) in about["broken"].split(",")
        if "encoded" in about:
            mean, std = (tensors.pop(f"encoded|{part}").to(self.backbone.device) for part in ("mean", "std"))
            self._encoded = about["encoded"], Posterior(mean, std, self._target.shift, self._target.scale)
        self.done = int(about["done"])
        self.surrogate.restore(
            tensors, {key: value for key, value in about.items() if key not in ("done", "broken", "encoded")}
        )
