"""Between which limits the overlap with a true shape tells anything: `python -m tests.benchmarks.shape_limits duck:3`.

Below: what another subject of the class has in common with it. Above: a scene that is fitted, by the renderer and the
background of `pcs 3d` and at the resolution that its recipes for `mini` render, to forty true pictures of it from known
cameras in both studios, 300 steps; nothing is distilled.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from modalities.mini import solid
from modalities.mini.world import Camera, Scene, Subject, render
from modalities.three_d import shape
from modalities.three_d.cameras import Views
from modalities.three_d.evaluate import CELLS, TrueShape
from modalities.three_d.field import PlaceMaps, SceneField
from modalities.three_d.renderer import render as draw

OTHERS, PICTURES, STEPS, SIDE = 10, 40, 300, 32
STUDIOS = ("red studio", "blue studio")


def inside(subject: Subject) -> Tensor:
    """Which points of the cube are in it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "subject.npz"
        solid.write_field(solid.field_of(subject, 48), path)
        return TrueShape.read(path).contains(shape.grid_points(CELLS))


def overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union."""
    return float((one & other).sum() / (one | other).sum())


def fitted(subject: Subject) -> SceneField:
    """A scene fitted to true pictures."""
    chosen = torch.Generator().manual_seed(0)
    azimuth = torch.arange(PICTURES) * 360.0 / PICTURES
    elevation, distance = 4 + 46 * torch.rand(PICTURES, generator=chosen), 2.7 + 0.5 * torch.rand(PICTURES)
    cameras = [Camera(*map(float, one)) for one in zip(azimuth, elevation, distance, strict=True)]
    drawn = [render(Scene(subject, STUDIOS[n % 2], camera), 64).image for n, camera in enumerate(cameras)]
    pictures = torch.stack([torch.from_numpy(one) for one in drawn]).permute(0, 3, 1, 2).float() / 255
    pictures = functional.avg_pool2d(pictures, 64 // SIDE)
    views = Views(azimuth, elevation, distance, torch.full((PICTURES,), 40.0))
    field, places = SceneField(48), PlaceMaps(2)
    groups = [{"params": field.parameters(), "lr": 0.01}, {"params": places.parameters(), "lr": 0.05}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0)
    for _ in range(STEPS):
        n = int(torch.randint(PICTURES, (1,), generator=chosen))
        jitter = torch.rand(1, SIDE * SIDE, generator=chosen)
        seen = draw(field, views[n : n + 1], SIDE, samples=32, background=partial(places, place=n % 2), jitter=jitter)
        loss = (seen.colours - pictures[n : n + 1]).abs().mean() + 1e-3 * field.roughness()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return field


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    lines = ["| subject | another of the class, mean (lowest to highest) | fitted to true pictures |", "|---|---|---|"]
    for name, _, seed in (one.partition(":") for one in sys.argv[1:]):
        torch.manual_seed(0)
        subject = Subject.random(int(seed), name, held_out=True)
        true = inside(subject)
        others = [overlap(true, inside(Subject.random(100 + n, name))) for n in range(OTHERS)]
        field = fitted(subject)
        found = shape.densities(field, CELLS).flatten() > shape.level_of(field).density
        floor = f"{sum(others) / OTHERS:.3f} ({min(others):.3f} to {max(others):.3f})"
        lines.append(f"| {name} | {floor} | {overlap(true, found):.3f} |")
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
