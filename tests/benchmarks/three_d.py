"""Measures a step of the scene beside nerfstudio's generfacto: same rays, samples and picture, in one run.

`make bench-3d` prints the table. The base is left out of both: a fixed picture stands for what it would say, so the
figures are rendering, penalties, backward and Adam. Steps of all rows take turns, so that other work on the machine
falls on all alike.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nerfstudio
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models import generfacto
from torch import Tensor

from modalities.core import bases, recipe
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.studio import Studio
from modalities.three_d.components.nerf import Nerf
from modalities.three_d.nerfstudio import SubjectModelConfig, model_of
from modalities.three_d.part import ScenePart, part_of
from modalities.three_d.trainer import SceneTrainer

ROUNDS, WARM = 12, 3
SIZES = ((32, 32), (64, 48))
Advance = Callable[[int], Tensor]
BOX = SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))


class StandIn:
    """In place of a diffusion model and its words: pulls the picture towards grey."""

    def __init__(self, *_: object, **__: object) -> None:
        """Takes what the real ones take."""

    def get_text_embedding(self, **_: object) -> Tensor:
        """No words."""
        return torch.zeros(1)

    def sds_loss(self, _: Tensor, picture: Tensor, **__: object) -> Tensor:
        """Half the squared distance to grey."""
        return towards_grey(picture)


def towards_grey(picture: Tensor) -> Tensor:
    """What stands for the base in every row."""
    return 0.5 * (picture - 0.5).square().sum()


def ours(folder: Path, side: int, samples: int, *, orientation: float) -> tuple[Advance, SceneTrainer]:
    """A step as the stages take it, with the penalties of the recipe for `mini`."""
    changes = {"nerf": {"samples": samples, "sides": [side]}, "scene_regularizers": {"orientation": orientation}}
    chosen = recipe.load("three_d/dreamfusion", {"components": changes}, backbone="mini")
    backbone = bases.load(bases.resolve("mini"), choose("cpu"), offline=True)
    studio = Studio(backbone, Concept("duck", "duck"), chosen, training=True, cache=Cache(folder))
    trainer = SceneTrainer(studio)
    studio.set_learning(trainer.phases[-1].learn)

    def loss(step: int) -> Tensor:
        seen = trainer.rendering(range(step, step + 1), 0)
        penalties = [part.penalty(seen, [step]) for part in studio.components if isinstance(part, ScenePart)]
        return sum((one for one in penalties if one is not None), towards_grey(seen.colours))

    return loss, trainer


def bundle(trainer: SceneTrainer, step: int, side: int) -> RayBundle:
    """The rays of our own step, for nerfstudio."""
    rays = trainer.orbit.views(range(step, step + 1)).rays(side)
    flat = rays.directions[0]
    return RayBundle(
        rays.origins[0].contiguous(),
        flat,
        pixel_area=torch.full_like(flat[:, :1], 1e-4),
        camera_indices=torch.zeros(len(flat), 1, dtype=torch.long),
        nears=None,
        fars=None,
    )


def through_nerfstudio(trainer: SceneTrainer, side: int, samples: int) -> tuple[Advance, list[Tensor]]:
    """Our field by nerfstudio's collider, sampler and renderers, with our roughness and opacity penalties."""
    config = SubjectModelConfig(resolution=48, samples=samples)
    model = model_of(config, part_of(trainer.studio, Nerf).field, 1).train()

    def loss(step: int) -> Tensor:
        seen = model(bundle(trainer, step, side))
        opacity = (seen["accumulation"].square() + 0.01).sqrt().mean()
        return towards_grey(seen["rgb"]) + 30 * opacity + 100 * model.field.scene.roughness()

    return loss, list(model.parameters())


def theirs(trainer: SceneTrainer, side: int, samples: int, proposals: tuple[int, ...]) -> tuple[Advance, list[Tensor]]:
    """nerfstudio's generfacto with the torch implementation and all of its losses."""
    generfacto.DeepFloyd = generfacto.PositionalTextEmbeddings = StandIn
    config = generfacto.GenerfactoModelConfig(
        prompt="a duck",
        implementation="torch",
        num_nerf_samples_per_ray=samples,
        num_proposal_samples_per_ray=proposals,
        num_proposal_iterations=len(proposals),
    )
    model = config.setup(scene_box=BOX, num_train_data=1, grad_scaler=None, device="cpu").train()
    batch = {"vertical": torch.zeros(1), "central": torch.zeros(1)}

    def loss(step: int) -> Tensor:
        model.proposal_sampler.step_cb(step)
        return sum(model.get_loss_dict(model(bundle(trainer, step, side)), batch).values())

    return loss, [value for value in model.parameters() if value.requires_grad]


def milliseconds(rows: dict[str, tuple[Advance, list[Tensor]]]) -> dict[str, float]:
    """Median time of a step of each row; the rows take turns."""
    optimizers = {name: torch.optim.Adam(values, lr=1e-2, eps=1e-15) for name, (_, values) in rows.items()}
    spent: dict[str, list[float]] = {name: [] for name in rows}
    for step in range(WARM + ROUNDS):
        for name, (loss, _) in rows.items():
            started = time.perf_counter()
            optimizers[name].zero_grad()
            loss(step).backward()
            optimizers[name].step()
            if step >= WARM:
                spent[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) * 1000 for name, values in spent.items()}


def rows_of(folder: Path, side: int, samples: int) -> dict[str, tuple[Advance, list[Tensor]]]:
    """All that is compared at one size."""
    loss, trainer = ours(folder, side, samples, orientation=0.0)
    facing, other = ours(folder, side, samples, orientation=1.0)

    def learned(one: SceneTrainer) -> list[Tensor]:
        return [value for _, value in one.studio.parameters()]

    return {
        "pcs": (loss, learned(trainer)),
        "pcs, with the orientation loss": (facing, learned(other)),
        "our field, nerfstudio's sampler and renderers": through_nerfstudio(trainer, side, samples),
        "generfacto, one proposal net with as many samples": theirs(trainer, side, samples, (samples,)),
        "generfacto as it comes (256 and 96 proposal samples)": theirs(trainer, side, samples, (256, 96)),
    }


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = ["| step of | " + " | ".join(f"{side} x {side}, {samples} samples" for side, samples in SIZES) + " |"]
    lines.append("|---|" + "---|" * len(SIZES))
    with tempfile.TemporaryDirectory() as folder:
        found = [milliseconds(rows_of(Path(folder), side, samples)) for side, samples in SIZES]
    for name in found[0]:
        cells = [f"{times[name]:.0f} ms ({times[name] / times['pcs']:.1f} x)" for times in found]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    versions = f"nerfstudio {getattr(nerfstudio, '__version__', '1.1')}, torch {torch.__version__}, one thread"
    sys.stdout.write("\n".join([*lines, "", versions, ""]))


if __name__ == "__main__":
    main()
