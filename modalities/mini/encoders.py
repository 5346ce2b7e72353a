"""The two networks that score results offline: one knows an individual again, one compares picture and words.

They share no weights with the base, so that the base is not judged by itself.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ResNetConfig, ResNetModel

from modalities.mini.precision import mixed_precision
from modalities.mini.settings import ClipSettings, SubjectEncoderSettings
from modalities.mini.shards import Pictures
from modalities.mini.tokenizer import POSITIONS
from modalities.mini.training import step_rng
from modalities.mini.world import CLASS_NAMES, Scene, Subject

# Classes need not be told apart as sharply as individuals.
CLASS_TEMPERATURE = 0.2


def family_scene(seed: int, index: int, views: int) -> Scene:
    """Scene `index` of pictures that come in groups of `views` of one individual, everything else varying."""
    family = seed * 1_000_000_000 + 500_000_000 + index // views
    subject = Subject.random(family, CLASS_NAMES[(index // views) % len(CLASS_NAMES)])
    return Scene.random(seed * 1_000_000_000 + 600_000_000 + index, subject=subject)


def new_subject_encoder(widths: tuple[int, ...]) -> ResNetModel:
    """An untrained residual network; its pooled features are the embedding."""
    config = ResNetConfig(
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=[1] * len(widths),
        layer_type="basic",
        downsample_in_first_stage=False,
    )
    return ResNetModel(config)


def new_clip(tokenizer: CLIPTokenizer, width: int, layers: int, patch: int, size: int) -> CLIPModel:
    """An untrained CLIP whose two towers have the same width and depth."""
    tower = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "projection_dim": width,
    }
    words = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    sight = {"image_size": size, "patch_size": patch}
    return CLIPModel(CLIPConfig(text_config=tower | words, vision_config=tower | sight, projection_dim=width))


def standardized(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] as both encoders take them: in [-1, 1], as their preprocessors say."""
    return pixels * 2 - 1


def softened(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Pixels (B, 3, H, W) a bit shifted, blurred, noisy, off in colour: drawn pictures are not renders."""
    down, right = rng.integers(0, 9, size=2)
    height, width = pixels.shape[2:]
    pixels = functional.pad(pixels, (4, 4, 4, 4), mode="replicate")
    pixels = pixels[:, :, down : down + height, right : right + width]
    if rng.random() < 0.5:
        soft = functional.avg_pool2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        pixels = torch.lerp(pixels, soft, float(rng.random()))
    tint = torch.from_numpy(1 + 0.06 * rng.standard_normal((len(pixels), 3, 1, 1), dtype=np.float32))
    grain = rng.standard_normal(pixels.shape, dtype=np.float32) * float(0.04 * rng.random())
    return pixels * tint + torch.from_numpy(grain)


class SubjectEncoderTask:
    """Supervised contrastive learning of individuals (Khosla et al. 2020, https://arxiv.org/abs/2004.11362).

    A batch holds individuals of few classes, since telling a mug from a dog would be too easy. A small second term
    does the same with classes, so that kin are more alike than strangers of another class, as people see it
    (Zhang et al. 2022, https://arxiv.org/abs/2204.13207).
    """

    def __init__(
        self,
        model: ResNetModel,
        families: Pictures,
        settings: SubjectEncoderSettings,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.families, self.settings, self.device = model.to(device), families, settings, device
        self._seed = seed

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) in [0, 1] and the individual (B,) in each."""
        settings, rng = self.settings, step_rng(self._seed, step)
        classes = rng.permutation(len(CLASS_NAMES))[: settings.classes]
        of_class = len(self.families) // settings.views // len(CLASS_NAMES)
        each = settings.individuals // settings.classes
        chosen = np.concatenate([rng.permutation(of_class)[:each] * len(CLASS_NAMES) + one for one in classes])
        views = np.stack([rng.permutation(settings.views)[:2] for _ in chosen])
        indices = (chosen[:, None] * settings.views + views).ravel()
        pixels = torch.from_numpy(self.families[indices]).permute(0, 3, 1, 2).float() / 255
        return softened(pixels, rng).to(self.device), torch.from_numpy(np.repeat(chosen, 2)).to(self.device)

    def loss(self, step: int) -> Tensor:
        """Cross-entropy of finding the other view of the same individual in the batch, and a share for its class."""
        pixels, individuals = self.batch(step)
        with mixed_precision(self.device):
            features = self.model(standardized(pixels)).pooler_output.flatten(1)
        features = functional.normalize(features.float(), dim=1)
        likeness = features @ features.T
        of_individual = _contrast(likeness / self.settings.temperature, individuals)
        # Individuals are numbered class by class in turn.
        of_class = _contrast(likeness / CLASS_TEMPERATURE, individuals % len(CLASS_NAMES))
        return of_individual + self.settings.class_weight * of_class


def _contrast(likeness: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of finding, for each row, the others with its label among all others."""
    is_same = (labels[:, None] == labels[None, :]).fill_diagonal_(False)
    shares = likeness.masked_fill(torch.eye(len(labels), dtype=torch.bool, device=labels.device), -1e9).log_softmax(1)
    return -((shares * is_same).sum(1) / is_same.sum(1)).mean()


class ClipTask:
    """Contrastive learning of pictures and captions (Radford et al. 2021, https://arxiv.org/abs/2103.00020)."""

    def __init__(
        self,
        model: CLIPModel,
        rings: Sequence[tuple[Pictures, np.ndarray]],
        settings: ClipSettings,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.rings, self.settings = model.to(device), rings, settings
        self.device, self._seed = device, seed

    def loss(self, step: int) -> Tensor:
        """Cross-entropy of finding the caption of each picture and the picture of each caption.

        A quarter of each batch is of the second ring.
        """
        rng, count = step_rng(self._seed, step), self.settings.batch
        images: list[np.ndarray] = []
        said: list[np.ndarray] = []
        for (pictures, tokens), share in zip(self.rings, (count - count // 4, count // 4), strict=True):
            chosen = rng.integers(len(tokens), size=share)
            images.append(pictures[chosen])
            said.append(tokens[chosen, rng.integers(tokens.shape[1], size=share)])
        pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).float() / 255
        pixels = standardized(softened(pixels, rng)).to(self.device)
        ids = torch.from_numpy(np.concatenate(said).astype(np.int64)).to(self.device)
        with mixed_precision(self.device):
            found = self.model(input_ids=ids, pixel_values=pixels)
        likeness = found.logits_per_image.float()
        # Two pictures may have the same short caption: either is then right.
        is_right = (ids[:, None] == ids[None, :]).all(dim=2).float()
        right = is_right / is_right.sum(1, keepdim=True)
        return (functional.cross_entropy(likeness, right) + functional.cross_entropy(likeness.T, right)) / 2


@torch.no_grad()
def identity_auc(model: nn.Module, pixels: Tensor, individuals: Tensor, classes: Tensor) -> dict[str, float]:
    """How often a pair of one individual is more alike than a pair of two, overall and within classes.

    pixels (N, 3, H, W) in [0, 1]; individuals, classes (N,). 0.5 is chance, 1 is perfect.
    """
    features = torch.cat([model(standardized(part)).pooler_output.flatten(1) for part in pixels.split(64)])
    features = functional.normalize(features, dim=1)
    likeness = features @ features.T
    upper = torch.ones_like(likeness, dtype=torch.bool).triu(1)
    is_same = individuals[:, None] == individuals[None, :]
    is_kin = (classes[:, None] == classes[None, :]) & ~is_same
    same = likeness[upper & is_same]
    return {
        "all_pairs": _auc(same, likeness[upper & ~is_same]),
        "same_class_pairs": _auc(same, likeness[upper & is_kin]),
    }


def _auc(high: Tensor, low: Tensor) -> float:
    """Share of pairs (one of each) in which `high` is the higher."""
    ranks = torch.searchsorted(low.sort().values, high)
    return float(ranks.double().mean() / len(low))


@torch.no_grad()
def retrieval(model: CLIPModel, pixels: Tensor, tokens: Tensor, among: int) -> float:
    """Share of pictures (N, 3, H, W) whose own caption (N, POSITIONS) is liked best of `among`."""
    groups = zip(pixels.split(among), tokens.split(among), strict=True)
    hits = [
        model(input_ids=ids, pixel_values=standardized(part)).logits_per_image.argmax(1) == torch.arange(len(part))
        for part, ids in groups
    ]
    return float(torch.cat(hits).float().mean())


def held_out_families(count: int, views: int, seed: int) -> list[Scene]:
    """`views` scenes of each of `count` individuals of held-out compositions."""
    scenes = []
    for family in range(count):
        class_name = CLASS_NAMES[family % len(CLASS_NAMES)]
        subject = Subject.random(seed + family, class_name, held_out=True)
        scenes += [Scene.random(seed + 10_000 + family * views + view, subject=subject) for view in range(views)]
    return scenes
