"""A small classifier that reads class, context, colours, pattern and view off a picture of the mini world.

It judges what the base draws; its own accuracy on unseen renders is the ceiling of such judgements.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modalities.mini.settings import ProbeSettings
from modalities.mini.shards import Pictures, training_scene
from modalities.mini.training import step_rng
from modalities.mini.world import CLASS_NAMES, COLOUR_NAMES, CONTEXTS, PATTERNS, Scene

VIEWS = ("front", "side", "back", "top")
HEADS: dict[str, tuple[str, ...]] = {
    "class": CLASS_NAMES,
    "context": CONTEXTS,
    "colour": COLOUR_NAMES,
    "second_colour": COLOUR_NAMES,
    "pattern": PATTERNS,
    "view": VIEWS,
}
NO_LABEL = -100


def labels_of(scene: Scene) -> list[int]:
    """Index of the truth for each head, NO_LABEL for a view between two names."""
    subject, view = scene.subject, scene.camera.view
    return [
        CLASS_NAMES.index(subject.class_name),
        CONTEXTS.index(scene.context),
        COLOUR_NAMES.index(subject.primary),
        COLOUR_NAMES.index(subject.secondary),
        PATTERNS.index(subject.pattern),
        NO_LABEL if view is None else VIEWS.index(view),
    ]


class _Block(nn.Module):
    """Two convolutions beside a shortcut; halves the picture."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
        self.second = nn.Conv2d(wide, wide, 3, padding=1)
        self.shortcut = nn.Conv2d(narrow, wide, 1, stride=2)
        self.first_norm, self.second_norm = nn.GroupNorm(8, wide), nn.GroupNorm(8, wide)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.silu(self.first_norm(self.first(x)))
        return functional.silu(self.second_norm(self.second(y)) + self.shortcut(x))


class Probe(nn.Module):
    """Pixels (B, 3, 64, 64) in [0, 1] to logits by head: {"class": (B, 15), "context": (B, 12), ...}."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in pairwise(widths)))
        self.heads = nn.ModuleDict({name: nn.Linear(widths[-1], len(kinds)) for name, kinds in HEADS.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        features = self.blocks(functional.silu(self.stem(pixels * 2 - 1))).mean(dim=(2, 3))
        return {name: head(features) for name, head in self.heads.items()}


class ProbeTask:
    """Batches and loss of the classifier."""

    def __init__(
        self, model: Probe, pictures: Pictures, settings: ProbeSettings, seed: int, device: torch.device
    ) -> None:
        self.model, self.pictures, self.settings, self.device = model.to(device), pictures, settings, device
        self._seed = seed
        self._labels = torch.tensor([labels_of(training_scene(seed, i)) for i in range(len(pictures))])

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) in [0, 1], shifted and slightly blurred or noisy, and labels (B, heads)."""
        rng = step_rng(self._seed, step)
        chosen = rng.integers(len(self.pictures), size=self.settings.batch)
        pixels = torch.from_numpy(self.pictures[chosen]).permute(0, 3, 1, 2).float() / 255
        down, right = rng.integers(-4, 5, size=2)
        pixels = torch.roll(functional.pad(pixels, (4, 4, 4, 4), mode="replicate"), (down, right), (2, 3))
        pixels = pixels[:, :, 4:-4, 4:-4]
        # What it will judge is softer than renders, so sharpness must not matter to it.
        if rng.random() < 0.5:
            soft = functional.avg_pool2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            pixels = torch.lerp(pixels, soft, float(rng.random()))
        noise = rng.standard_normal(pixels.shape, dtype=np.float32) * float(0.05 * rng.random())
        return (pixels + torch.from_numpy(noise)).to(self.device), self._labels[chosen].to(self.device)

    def loss(self, step: int) -> Tensor:
        """Sum of the cross-entropies of all heads."""
        pixels, labels = self.batch(step)
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.model(pixels)
        losses = [
            functional.cross_entropy(logits[name].float(), labels[:, i], ignore_index=NO_LABEL)
            for i, name in enumerate(HEADS)
        ]
        return torch.stack(losses).sum()


@torch.no_grad()
def accuracy(model: Probe, pixels: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of right answers by head on pixels (N, 3, H, W) with labels (N, heads), absent ones skipped."""
    model.eval()
    logits = [model(part) for part in pixels.split(64)]
    scores = {}
    for i, name in enumerate(HEADS):
        answers = torch.cat([part[name] for part in logits]).argmax(1)
        is_labelled = labels[:, i] != NO_LABEL
        scores[name] = float((answers == labels[:, i])[is_labelled].float().mean())
    return scores
