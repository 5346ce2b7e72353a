"""A small classifier that reads class, context, colours, pattern and view off a picture of the mini world.

It judges what the base draws; its own accuracy on unseen renders is the ceiling of such judgements.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modalities.mini.motion import FRAMES, MOTIONS, Clip
from modalities.mini.precision import mixed_precision
from modalities.mini.settings import MotionProbeSettings, ProbeSettings
from modalities.mini.shards import Pictures, training_clip, training_scene, varied_scene
from modalities.mini.staging import ACCESSORIES
from modalities.mini.styles import STYLES
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
    "style": STYLES,
    "accessory": ("none", *ACCESSORIES),
}
FIRST_RING = ("class", "context", "colour", "second_colour", "pattern", "view")
# What prompts of the second ring name.
SECOND_RING = ("class", "context", "colour", "view", "style", "accessory")
NO_LABEL = -100


def labels_of(scene: Scene) -> list[int]:
    """Index of the truth for each head, NO_LABEL where the picture cannot tell.

    That is a view between two names, colours and pattern of a pencil drawing, and whatever is true of one of two.
    """
    subject, view = scene.subject, scene.camera.view
    labels = [
        CLASS_NAMES.index(subject.class_name),
        CONTEXTS.index(scene.context),
        COLOUR_NAMES.index(subject.primary),
        COLOUR_NAMES.index(subject.secondary),
        PATTERNS.index(subject.pattern),
        NO_LABEL if view is None else VIEWS.index(view),
        STYLES.index(scene.style),
        0 if scene.accessory is None else 1 + ACCESSORIES.index(scene.accessory),
    ]
    hidden = set[str]()
    if scene.companion:
        hidden |= {"class", "colour", "second_colour", "pattern"}
    if scene.style == "pencil":
        hidden |= {"colour", "second_colour", "pattern"}
    return [NO_LABEL if name in hidden else label for name, label in zip(HEADS, labels, strict=True)]


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
        features = self._pooled(pixels)
        return {name: head(features) for name, head in self.heads.items()}

    def _pooled(self, pixels: Tensor) -> Tensor:
        return self.blocks(functional.silu(self.stem(pixels * 2 - 1))).mean(dim=(2, 3))

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """What the heads read, (N, widths[-1]), of pixels (N, 3, H, W) in [0, 1]."""
        return torch.cat([self._pooled(part) for part in pixels.split(64)])


class ProbeTask:
    """Batches and loss of the classifier; a third of each batch is of the second ring."""

    def __init__(
        self,
        model: Probe,
        pictures: Pictures,
        varied: Pictures,
        settings: ProbeSettings,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.settings, self.device, self._seed = model.to(device), settings, device, seed
        self._rings = [
            (pictures, torch.tensor([labels_of(training_scene(seed, i)) for i in range(len(pictures))])),
            (varied, torch.tensor([labels_of(varied_scene(seed, i)) for i in range(len(varied))])),
        ]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) in [0, 1], shifted and slightly blurred or noisy, and labels (B, heads)."""
        rng, count = step_rng(self._seed, step), self.settings.batch
        images: list[np.ndarray] = []
        labels: list[Tensor] = []
        for (pictures, truth), share in zip(self._rings, (count - count // 3, count // 3), strict=True):
            chosen = rng.integers(len(pictures), size=share)
            images.append(pictures[chosen])
            labels.append(truth[chosen])
        pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).float() / 255
        return _as_drawn(pixels, rng).to(self.device), torch.cat(labels).to(self.device)

    def loss(self, step: int) -> Tensor:
        """Sum of the cross-entropies of all heads."""
        pixels, labels = self.batch(step)
        with mixed_precision(self.device):
            logits = self.model(pixels)
        losses = [
            functional.cross_entropy(logits[name].float(), labels[:, i], ignore_index=NO_LABEL, reduction="sum")
            for i, name in enumerate(HEADS)
        ]
        return torch.stack(losses).sum() / len(pixels)


def _as_drawn(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Renders (B, 3, H, W) made like what is to be judged: off the centre, softer, noisier."""
    down, right = rng.integers(-4, 5, size=2)
    pixels = torch.roll(functional.pad(pixels, (4, 4, 4, 4), mode="replicate"), (down, right), (2, 3))
    return _softer(pixels[:, :, 4:-4, 4:-4], rng)


def _softer(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Renders a little blurred and noisy: what is to be judged is softer, and that must not matter."""
    if rng.random() < 0.5:
        soft = functional.avg_pool2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        pixels = torch.lerp(pixels, soft, float(rng.random()))
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * float(0.05 * rng.random())
    return pixels + torch.from_numpy(noise)


@torch.no_grad()
def accuracy(model: Probe, pixels: Tensor, labels: Tensor, heads: tuple[str, ...] = tuple(HEADS)) -> dict[str, float]:
    """Share of right answers by head on pixels (N, 3, H, W) with labels (N, all heads), absent ones skipped."""
    model.eval()
    logits = [model(part) for part in pixels.split(64)]
    scores: dict[str, float] = {}
    for name in heads:
        truth = labels[:, list(HEADS).index(name)]
        answers = torch.cat([part[name] for part in logits]).argmax(1)
        is_labelled = truth != NO_LABEL
        scores[name] = float((answers == truth)[is_labelled].float().mean())
    return scores


class MotionProbe(nn.Module):
    """Clips (B, F, 3, H, W) in [0, 1] to what moves, how, and along which path.

    Returns logits "class" (B, 15) and "motion" (B, 10), and "path" (B, F, 3): see `Clip.path`.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in pairwise(widths)))
        wide = widths[-1]
        # Where things are must survive, so the last map is read cell by cell.
        self.cells = nn.Conv2d(wide, wide // 4, 1)
        self.frame = nn.Linear(wide // 4 * 16, wide)
        self.over_time = nn.Conv1d(wide, wide, 3, padding=1)
        self.again = nn.Conv1d(wide, wide, 3, padding=1)
        self.kind, self.motion = nn.Linear(wide, len(CLASS_NAMES)), nn.Linear(wide, len(MOTIONS))
        self.path = nn.Linear(wide, 3)

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        frames = self.blocks(functional.silu(self.stem(clips.flatten(0, 1) * 2 - 1)))
        cells = functional.adaptive_avg_pool2d(functional.silu(self.cells(frames)), 4)
        features = functional.silu(self.frame(cells.flatten(1)))
        features = features.unflatten(0, clips.shape[:2]).transpose(1, 2)
        features = features + functional.silu(self.over_time(features))
        features = (features + functional.silu(self.again(features))).transpose(1, 2)
        whole = features.amax(1)
        return {"class": self.kind(whole), "motion": self.motion(whole), "path": self.path(features)}


class MotionProbeTask:
    """Batches and loss of the classifier of clips."""

    def __init__(
        self, model: MotionProbe, frames: Pictures, settings: MotionProbeSettings, seed: int, device: torch.device
    ) -> None:
        self.model, self.frames, self.settings, self.device, self._seed = (
            model.to(device),
            frames,
            settings,
            device,
            seed,
        )
        clips = [training_clip(seed, i) for i in range(len(frames) // FRAMES)]
        self._labels = torch.tensor([clip_labels_of(clip) for clip in clips])
        self._paths = torch.from_numpy(np.stack([clip.path() for clip in clips]))

    def loss(self, step: int) -> Tensor:
        """Cross-entropies of class and motion, and the squared error of the path."""
        rng, count = step_rng(self._seed, step), self.settings.batch
        chosen = rng.integers(len(self._labels), size=count)
        indices = (chosen[:, None] * FRAMES + np.arange(FRAMES)).ravel()
        pixels = torch.from_numpy(self.frames[indices]).permute(0, 3, 1, 2).float() / 255
        labels = self._labels[chosen].to(self.device)
        with mixed_precision(self.device):
            found = self.model(_softer(pixels, rng).unflatten(0, (count, FRAMES)).to(self.device))
        path = (found["path"].float() - self._paths[chosen].to(self.device)).square().mean()
        kinds = [functional.cross_entropy(found[name].float(), labels[:, i]) for i, name in enumerate(CLIP_HEADS)]
        return torch.stack(kinds).sum() + 20 * path


CLIP_HEADS = ("class", "motion")


def clip_labels_of(clip: Clip) -> list[int]:
    """Index of the truth for each of `CLIP_HEADS`."""
    return [CLASS_NAMES.index(clip.scene.subject.class_name), MOTIONS.index(clip.motion)]


@torch.no_grad()
def clip_accuracy(model: MotionProbe, clips: Tensor, labels: Tensor, paths: Tensor) -> dict[str, float]:
    """Share of right answers on clips (N, F, 3, H, W) with labels (N, heads), and the error of paths (N, F, 3).

    "path_error": mean distance between where the subject is seen and where its motion takes it, from where it
    starts, in picture widths. "path_error_if_still": that of a subject which does not move.
    """
    found = [model.eval()(part) for part in clips.split(16)]
    scores = {
        name: float((torch.cat([part[name] for part in found]).argmax(1) == labels[:, i]).float().mean())
        for i, name in enumerate(CLIP_HEADS)
    }
    seen, moved = (path[..., :2] - path[:, :1, :2] for path in (torch.cat([part["path"] for part in found]), paths))
    scores["path_error"] = float((seen - moved).norm(dim=-1).mean())
    scores["path_error_if_still"] = float(moved.norm(dim=-1).mean())
    return scores
