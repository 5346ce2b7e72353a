"""One step of a scene: render, encode, ask the base what it sees, and move the scene."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from modalities.core.draws import generator
from modalities.core.step import Batch, denoise
from modalities.core.studio import Studio
from modalities.core.trainer import Trainer
from modalities.three_d.cameras import turntable
from modalities.three_d.components.orbit import Orbit
from modalities.three_d.components.photo_registration import PhotoRegistration
from modalities.three_d.components.reconstruction import Reconstruction
from modalities.three_d.components.surroundings import Surroundings
from modalities.three_d.part import Scene, ScenePart, part_of, progress_at, scene_of
from modalities.three_d.pseudo_views import PseudoViews
from modalities.three_d.renderer import Rendering

PREVIEWS, PREVIEW_SIDE = 8, 64


class SceneTrainer(Trainer):
    """Takes steps on the scene; the base and what was learned of the subject stay as they are."""

    def __init__(self, studio: Studio, pseudo: PseudoViews | None = None) -> None:
        """Make ready to learn the studio's scene, and to reproduce `pseudo` where the recipe asks for it."""
        super().__init__(studio)
        self.pseudo = pseudo
        self.balance: float | None = None
        self.orbit = part_of(studio, Orbit)
        self.surroundings = part_of(studio, Surroundings)
        self._rendering: Rendering | None = None

    @property
    def scene(self) -> Scene:
        """What learns and is looked at now."""
        return scene_of(self.studio)

    def batch(self) -> Batch:
        studio, size = self.studio, self.studio.recipe.train.batch
        positions = range(self.step * size, (self.step + 1) * size)
        templates, device = studio.recipe.data.prompts, studio.backbone.device
        # One place for a whole step, so that all its views share one background.
        place = studio.draws.pick("place", self.step, len(templates))
        self._rendering = self.rendering(positions, place)
        posterior = studio.backbone.encode(self._enlarged(self._rendering.colours))
        latents = posterior.sample(torch.zeros_like(posterior.mean))
        batch = Batch(
            latents=latents,
            noise=studio.draws.normal("scene noise", positions, latents.shape[1:]).to(device),
            t=studio.backbone.schedule.timesteps(studio.draws.uniform("scene time", positions)).to(device),
            prompts=(studio.concept.prompt(templates[place]),) * size,
            positions=tuple(positions),
            is_prior=torch.zeros(size, dtype=torch.bool, device=device),
        )
        for part in studio.components:
            batch = part.batch(batch)
        return batch

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            step = denoise(self.studio.backbone, batch)
        assert self._rendering is not None
        loss = batch.latents.sum() * 0
        for part in self.studio.components:
            positions = batch.positions
            added = [part.loss(step, batch)]
            if isinstance(part, ScenePart):
                added.append(part.penalty(self._rendering, positions))
            loss = sum((one for one in added if one is not None), loss)
        return loss + self._reconstruction(loss, batch)

    def _reconstruction(self, loss: Tensor, batch: Batch) -> Tensor:
        """The weighed difference to this step's pseudo views; 0 without any, or while the scene does not learn."""
        part = next((part for part in self.studio.components if isinstance(part, Reconstruction)), None)
        learns = [value for value in self.scene.parameters().values() if value.requires_grad]
        if self.pseudo is None or part is None or not learns:
            return loss.detach() * 0
        count = len(self.pseudo.places)
        chosen = [
            self.studio.draws.pick("pseudo view", self.step * part.views + number, count)
            for number in range(part.views)
        ]
        apart = torch.stack([self._difference(number, chosen.index(number)) for number in dict.fromkeys(chosen)]).mean()
        if self.balance is None:
            self.balance = part.share * gradient_norm(loss, learns) / max(gradient_norm(apart, learns), 1e-12)
        return self.balance * part.factor(progress_at(self.studio, batch.positions)) * apart

    def _difference(self, number: int, order: int) -> Tensor:
        """How far the scene is from pseudo view `number`."""
        assert self.pseudo is not None
        side, device = self.scene.side_at([self.step * self.studio.recipe.train.batch]), self.studio.backbone.device
        draws = generator(self.studio.draws.seed, "pseudo ray", self.step, order)
        jitter = torch.rand(1, side * side, generator=draws).to(device)
        views, wanted = self.pseudo.views[number : number + 1], self.pseudo.pictures[number : number + 1].to(device)
        if self.pseudo.alphas is None:
            background = self.surroundings.place(self.pseudo.places[number])
        else:
            # A colour of its own in every step, before which nothing hides what is too much or too little.
            colour = torch.rand(3, generator=draws).to(device)
            background = colour.expand_as
            views, shift = part_of(self.studio, PhotoRegistration).corrected(self.pseudo.views, number)
            alpha = self.pseudo.alphas[number : number + 1].to(device)
            layers = moved(torch.cat([wanted * alpha, alpha], 1), shift)
            wanted = layers[:, :3] + (1 - layers[:, 3:]) * colour[:, None, None]
        seen = self.scene.draw(views, side, background=background, jitter=jitter)
        if wanted.shape[-1] != side:
            wanted = functional.interpolate(wanted, (side, side), mode="bilinear", antialias=True)
        return Reconstruction.distance(seen.colours, wanted)

    def state(self) -> dict[str, Tensor]:
        balance = {} if self.balance is None else {"balance": torch.tensor(self.balance, dtype=torch.float64)}
        return super().state() | balance

    def restore(self, step: int, tensors: dict[str, Tensor]) -> None:
        super().restore(step, tensors)
        self.balance = float(tensors["balance"]) if "balance" in tensors else None

    def probe(self) -> tuple[float, float]:
        found = super().probe()
        self.balance = None
        for part in self.studio.components:
            if isinstance(part, Scene):
                part.restart()
        # Nothing learns before the first step, or a look would begin the scene of the last phase.
        self.studio.set_learning({})
        return found

    def seconds_per_preview(self) -> float:
        started = time.monotonic()
        self.preview()
        return time.monotonic() - started

    def preview(self) -> Tensor:
        """The scene from all around, small: `(8, 3, 64, 64)` in [0, 1]."""
        with torch.no_grad():
            return self.scene.draw(turntable(PREVIEWS), PREVIEW_SIDE).colours

    def rendering(self, positions: range, place: int) -> Rendering:
        """What items `positions` of the run show."""
        side = self.scene.side_at(positions)
        jitter = torch.stack(
            [torch.rand(side * side, generator=generator(self.studio.draws.seed, "ray", at)) for at in positions]
        )
        views = self.orbit.views(positions)
        return self.scene.draw(
            views, side, background=self.surroundings.place(place), jitter=jitter.to(self.studio.backbone.device)
        )

    def _enlarged(self, pixels: Tensor) -> Tensor:
        side = self.studio.resolution
        if pixels.shape[-1] == side:
            return pixels
        return functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)


def moved(pictures: Float[Tensor, "b c side side"], shift: Float[Tensor, " 2"]) -> Float[Tensor, "b c side side"]:
    """Pictures moved to the right and down by `shift` half sides; black comes in."""
    place = functional.affine_grid(
        torch.eye(2, 3, device=pictures.device)[None], list(pictures[:1].shape), align_corners=False
    )
    grid = (place - shift).expand(len(pictures), -1, -1, -1)
    return functional.grid_sample(pictures, grid, align_corners=False, padding_mode="zeros")


def gradient_norm(loss: Tensor, values: Sequence[Tensor]) -> float:
    """Norm of the gradient of `loss` in `values`."""
    found = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
    return float(torch.stack([one.square().sum() for one in found if one is not None]).sum().sqrt())
