"""A base with a recipe's components in place: what training, generation and evaluation all work on."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import Parameter

from modalities.core.backbone import Backbone, Conditioning, Posterior
from modalities.core.cache import Cache
from modalities.core.component import Component
from modalities.core.concept import Concept
from modalities.core.draws import Draws, seeded
from modalities.core.errors import PcsError
from modalities.core.media import Photo, square, to_pixels
from modalities.core.progress import Progress, Silent
from modalities.core.recipe import Recipe
from modalities.core.step import Batch


class Studio:
    """The base, the concept, the recipe, and everything that learns, by name.

    Attributes:
        components: copies of the recipe's, prepared.
        training: False when the studio was opened only to generate.
        keeps_base: set by a component, while it prepares, that will call `as_base` or `changes`.
    """

    def __init__(
        self,
        backbone: Backbone,
        concept: Concept,
        recipe: Recipe,
        *,
        training: bool,
        cache: Cache,
        draws: Draws | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.backbone = backbone
        self.concept = concept
        self.recipe = recipe
        self.training = training
        self.cache = cache
        self.draws = draws or Draws(recipe.train.seed)
        self.progress: Progress = progress or Silent()
        self.keeps_base = False
        self._base_text: dict[tuple[str, ...], Conditioning] = {}
        backbone.require_side(self.resolution)
        backbone.require_sample(recipe.sample)
        self.components: list[Component] = [part.model_copy(deep=True) for part in recipe.components]
        for part in self.components:
            with seeded(recipe.train.seed, "prepare", part.name):
                part.prepare(self)
        self._learned = {part.name: part.parameters() for part in self.components}
        self._require_one_owner()
        self._initial = {name: value.detach().clone() for name, value in self.parameters()} if self.keeps_base else {}
        self.set_learning({})

    @property
    def resolution(self) -> int:
        """Side in pixels at which photos are used and images made."""
        return self.recipe.data.resolution or self.backbone.resolution

    # -- what learns -----------------------------------------------------------------------------------------

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Everything that the components learn, as `component.name`."""
        for component, parameters in self._learned.items():
            for name, value in parameters.items():
                yield f"{component}.{name}", value

    def _require_one_owner(self) -> None:
        owners: dict[int, str] = {}
        for name, value in self.parameters():
            component = name.partition(".")[0]
            other = owners.setdefault(id(value), component)
            if other != component:
                raise PcsError(f"components {other} and {component} both train {name.partition('.')[2]}; drop one.")

    def learned_by(self, component: str) -> dict[str, Parameter]:
        """The parameters of one component, by name."""
        return self._learned[component]

    def changes(self, component: str) -> Iterator[tuple[Parameter, Tensor]]:
        """What a component learns, each parameter with what it was before anything was learned.

        Raises:
            PcsError: the recipe has no such component, or it learns nothing.
        """
        assert self.keeps_base, "a component that calls changes sets studio.keeps_base while it prepares"
        if not self._learned.get(component):
            raise PcsError(f'the recipe has no component "{component}" that learns; name another.')
        for name, value in self._learned[component].items():
            yield value, self._initial[f"{component}.{name}"]

    def weights(self) -> dict[str, Tensor]:
        """Everything that was learned, `component.name` -> float32 tensor on the CPU (a copy)."""
        return {
            name: value.detach().to("cpu", torch.float32, copy=True).contiguous() for name, value in self.parameters()
        }

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take learned weights back, exactly.

        Raises:
            PcsError: they are of other components, or of another base.
        """
        own = dict(self.parameters())
        if set(own) != set(weights):
            odd = sorted(set(own) ^ set(weights))[0]
            raise PcsError(f'the weights do not fit this recipe and base: "{odd}" is only on one side.')
        with torch.no_grad():
            for name, value in own.items():
                if value.shape != weights[name].shape:
                    raise PcsError(f'the weights do not fit this base: "{name}" has another shape.')
                value.copy_(weights[name])
        self.backbone.forget_text()

    def set_learning(self, names: Sequence[str] | dict[str, float]) -> None:
        """Let only the named components take gradients; networks that learn are in training mode."""
        for component, parameters in self._learned.items():
            for value in parameters.values():
                value.requires_grad_(component in names)
        for module in self.backbone.modules().values():
            module.train(any(value.requires_grad for value in module.parameters()))
        self.backbone.forget_text()

    @contextmanager
    def at_rest(self) -> Generator[None]:
        """Every network in evaluation mode inside the block, as when a finished run generates."""
        learning = [module for module in self.backbone.modules().values() if module.training]
        for module in learning:
            module.eval()
        try:
            yield
        finally:
            for module in learning:
                module.train()

    @contextmanager
    def as_base(self) -> Generator[None]:
        """Inside the block the model is the frozen base again, bit for bit, and takes no gradients."""
        assert self.keeps_base, "a component that calls as_base sets studio.keeps_base while it prepares"
        current = {name: value.data for name, value in self.parameters()}
        try:
            for name, value in self.parameters():
                value.data = self._initial[name]
            with torch.no_grad(), self.backbone.base_text(self._base_text):
                yield
        finally:
            for name, value in self.parameters():
                value.data = current[name]

    @contextmanager
    def sampling(self) -> Generator[Any]:
        """Yield the pipeline with every component's change of generation in place."""
        pipeline = self.backbone.pipeline()
        with ExitStack() as stack:
            for part in self.components:
                stack.enter_context(part.sampling(pipeline))
            yield pipeline

    # -- photos ----------------------------------------------------------------------------------------------

    def view_at(self, position: int) -> int:
        """Which view item `position` of the run shows: a photo, or with `data.flip` its mirror image, in turn."""
        views = len(self.concept.all_photos) * (1 + self.recipe.data.flip)
        return self.draws.pick("photo", position, views)

    def photo_at(self, position: int) -> int:
        """Which of the concept's photos item `position` of the run shows."""
        return self.view_at(position) // (1 + self.recipe.data.flip)

    def encode(self, photos: Sequence[Photo], *, flip: bool = False) -> Posterior:
        """Encode photos one by one, each followed by its mirror image if `flip`; cached by content."""
        views = [(photo, mirrored) for photo in photos for mirrored in ((False, True) if flip else (False,))]
        rows = [self._encoded(photo, mirrored) for photo, mirrored in views]
        means, stds = (torch.cat([row[name] for row in rows]).to(self.backbone.device) for name in ("mean", "std"))
        shift, scale = (float(rows[0][name]) for name in ("shift", "scale"))
        return Posterior(means, stds, shift, scale)

    def encode_images(self, images: Sequence[Image]) -> Posterior:
        """Encode pictures of one size that are no photos of the concept, one by one; not cached."""
        with torch.no_grad():
            rows = [self.backbone.encode(to_pixels(image)[None]) for image in images]
        mean, std = torch.cat([row.mean for row in rows]), torch.cat([row.std for row in rows])
        return Posterior(mean, std, rows[0].shift, rows[0].scale)

    def _encoded(self, photo: Photo, mirrored: bool) -> dict[str, Tensor]:
        def compute() -> dict[str, Tensor]:
            pixels = square(photo.open(), self.resolution, mirrored=mirrored)
            with torch.no_grad():
                one = self.backbone.encode(pixels[None])
            scalars = {name: torch.tensor(getattr(one, name), dtype=torch.float64) for name in ("shift", "scale")}
            return {"mean": one.mean.cpu(), "std": one.std.cpu(), **scalars}

        key = (self.backbone.fingerprint, "vae", photo.digest, self.resolution, mirrored)
        return self.cache.remember("latents", key, compute)

    def batch(
        self,
        posterior: Posterior,
        rows: Sequence[int],
        prompts: Sequence[str],
        positions: Sequence[int],
        *,
        purpose: str,
        is_prior: bool = False,
    ) -> Batch:
        """Put items together: latents sampled from `posterior`, noise and times, all keyed by the positions.

        Args:
            posterior: encoded pictures.
            rows: which picture each item takes.
            prompts: one for each item.
            positions: place of each item in the run's sequence.
            purpose: keeps the draws of different kinds of items apart.
            is_prior: what the items are.
        """
        device, shape = self.backbone.device, posterior.mean.shape[1:]
        normal = self.draws.normal(f"{purpose} latents", positions, shape).to(device)
        noise = self.draws.normal(f"{purpose} noise", positions, shape).to(device)
        uniform = self.draws.uniform(f"{purpose} time", positions).to(device)
        return Batch(
            latents=posterior.rows(rows).sample(normal),
            noise=noise,
            t=self.backbone.schedule.timesteps(uniform),
            prompts=tuple(prompts),
            positions=tuple(positions),
            is_prior=torch.full((len(rows),), is_prior, device=device),
        )
