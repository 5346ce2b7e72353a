"""Measure a base: does it draw what it is asked for, and does its autoencoder keep pictures?

Everything is measured on compositions of class, colours and pattern that no training picture showed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, CLIPModel, CLIPTokenizer

from modalities.core.errors import PcsError
from modalities.core.media import to_image
from modalities.core.report import contact_sheet
from modalities.mini.autoencoder import psnr
from modalities.mini.captions import CONTEXT_PHRASES
from modalities.mini.denoiser import token_ids
from modalities.mini.encoders import held_out_families, identity_auc, retrieval
from modalities.mini.probe import Probe, accuracy, labels_of
from modalities.mini.settings import CheckSettings
from modalities.mini.world import CLASS_NAMES, Scene, render

SEED = 2**40


def check(folder: Path, settings: CheckSettings | None = None) -> dict[str, Any]:
    """Let the base in `folder` draw held-out scenes, and judge the drawings with its probe.

    Returns accuracies (0..1) of the drawings, those of the probe on true renders beside them, and the
    autoencoder's peak signal-to-noise ratio in dB.

    Raises:
        PcsError: the folder has no probe, so it is not an edition of the embedded base.
    """
    settings = settings or CheckSettings()
    probe = load_probe(folder)
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae")
    scenes = held_out_scenes(settings.pictures)
    truth, labels = renders(scenes, autoencoder.config.sample_size), labels_of_all(scenes)
    drawn = draw(folder, [prompt_of(scene) for scene in scenes], settings.steps, settings.guidance)
    return {
        "pictures": settings.pictures,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "drawn": accuracy(probe, drawn, labels),
        "probe_on_renders": accuracy(probe, truth, labels),
        "autoencoder_psnr_db": psnr(autoencoder, truth),
    }


def check_encoders(folder: Path, individuals: int = 90, views: int = 4, among: int = 20) -> dict[str, Any]:
    """Measure both metric encoders of `folder` on held-out individuals.

    Returns the areas under the curve of telling individuals apart, and how often the right one of `among`
    captions is found.
    """
    clip = CLIPModel.from_pretrained(folder / "clip").eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip")
    encoder = AutoModel.from_pretrained(folder / "subject_encoder").eval()
    scenes = held_out_families(individuals, views, SEED)
    pixels = renders(scenes, clip.config.vision_config.image_size)
    individual = torch.arange(individuals).repeat_interleave(views)
    classes = torch.tensor([CLASS_NAMES.index(scene.subject.class_name) for scene in scenes])
    whole = len(scenes) // among * among
    tokens = torch.from_numpy(token_ids(tokenizer, [prompt_of(scene) for scene in scenes[:whole]])).long()
    # Neighbours are views of one individual, so groups are taken across.
    order = torch.arange(whole).view(among, -1).T.flatten()
    return {
        "identity_auc": identity_auc(encoder, pixels, individual, classes),
        "retrieval": retrieval(clip, pixels[order], tokens[order], among),
        "retrieval_among": among,
    }


def sample_sheet(folder: Path, settings: CheckSettings, rows: int = 8, columns: int = 5) -> Image.Image:
    """A row for each of the first held-out scenes: how it truly looks, then `columns` drawings of its prompt."""
    scenes = held_out_scenes(rows)
    prompts = [prompt_of(scene) for scene in scenes]
    truth = renders(scenes, AutoencoderKL.load_config(folder / "vae")["sample_size"])
    drawn = draw(folder, [prompt for prompt in prompts for _ in range(columns)], settings.steps, settings.guidance)
    pictures = [to_image(pixels) for pixels in drawn]
    return contact_sheet([
        (prompt, [to_image(truth[row]), *pictures[row * columns : (row + 1) * columns]])
        for row, prompt in enumerate(prompts)
    ])  # fmt: skip


def held_out_scenes(count: int) -> list[Scene]:
    """Scenes of compositions that were kept from training, always the same."""
    return [Scene.random(SEED + i, held_out=True) for i in range(count)]


def prompt_of(scene: Scene) -> str:
    """A full, plain description: both colours, pattern, class, context and view."""
    subject, view = scene.subject, scene.camera.view
    pattern = "" if subject.pattern == "plain" else f" {subject.pattern}"
    look = f"{subject.primary} and {subject.secondary}{pattern} {subject.class_name}"
    article = "an" if look[0] in "aeiou" else "a"
    return f"a photo of {article} {look} {CONTEXT_PHRASES[scene.context][0]}" + (f", {view} view" if view else "")


def renders(scenes: list[Scene], size: int) -> Tensor:
    """The scenes as they truly look, (N, 3, size, size) in [0, 1]."""
    images = np.stack([render(scene, size).image for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def labels_of_all(scenes: list[Scene]) -> Tensor:
    """Indices of the truth (N, heads)."""
    return torch.tensor([labels_of(scene) for scene in scenes])


def draw(folder: Path, prompts: list[str], steps: int, guidance: float, batch: int = 20) -> Tensor:
    """What the base in `folder` draws of `prompts`, (N, 3, H, W) in [0, 1]; prompt i from noise seed i."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in range(0, len(prompts), batch):
        asked = prompts[start : start + batch]
        noise = [torch.Generator().manual_seed(start + i) for i in range(len(asked))]
        drawn = pipeline(asked, num_inference_steps=steps, guidance_scale=guidance, generator=noise, output_type="pt")
        parts.append(drawn.images)
    return torch.cat(parts).float()


def load_probe(folder: Path) -> Probe:
    """The classifier that lies beside the base in `folder`."""
    path = folder / "probe" / "model.safetensors"
    if not path.is_file():
        raise PcsError(f"{folder}: has no probe/model.safetensors, so it is not an edition of the embedded base.")
    weights = {name: tensor.float() for name, tensor in load_file(path).items()}
    widths = [weights["stem.weight"].shape[0]]
    while (name := f"blocks.{len(widths) - 1}.first.weight") in weights:
        widths.append(weights[name].shape[0])
    probe = Probe(tuple(widths))
    probe.load_state_dict(weights)
    return probe.eval()
