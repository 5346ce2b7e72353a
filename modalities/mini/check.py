"""Measure a base: does it draw what it is asked for, and does its autoencoder keep pictures?

Everything is measured on compositions of class, colours and pattern that no training picture showed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, TextToVideoSDPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, CLIPModel, CLIPTokenizer

from modalities.core import media
from modalities.core.concept import Concept
from modalities.core.errors import PcsError
from modalities.core.media import to_image
from modalities.core.report import contact_sheet
from modalities.mini.autoencoder import psnr
from modalities.mini.captions import CONTEXT_PHRASES, FINISH_WORDS, STYLE_PHRASES, with_article
from modalities.mini.denoiser import token_ids
from modalities.mini.encoders import held_out_families, identity_auc, retrieval, standardized
from modalities.mini.motion import CAMERA_MOTIONS, FRAMES, MOTION_PHRASES, MOTIONS, Clip, render_clip
from modalities.mini.probe import (
    FIRST_RING,
    SECOND_RING,
    MotionProbe,
    Probe,
    accuracy,
    clip_accuracy,
    clip_labels_of,
    labels_of,
)
from modalities.mini.settings import CheckSettings
from modalities.mini.world import CLASS_NAMES, Scene, render

SEED = 2**40


def check(folder: Path, settings: CheckSettings | None = None, photos: Path | None = None) -> dict[str, Any]:
    """Let the base in `folder` draw held-out scenes, and judge the drawings with its probe.

    Returns accuracies (0..1) of the drawings, those of the probe on true renders beside them; how far the drawings
    are from renders as a set (KID x 1000), beside that of other renders; and the autoencoder's peak signal-to-noise
    ratio in dB on renders and, if a folder of them is given, on `photos`.

    Raises:
        PcsError: the folder has no probe, so it is not an edition of the embedded base, or a photo is unreadable.
    """
    settings = settings or CheckSettings()
    probe = load_probe(folder)
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae")
    size = autoencoder.config.sample_size
    scenes = held_out_scenes(settings.pictures)
    truth, labels = renders(scenes, size), labels_of_all(scenes)
    drawn = draw(folder, [prompt_of(scene) for scene in scenes], settings.steps, settings.guidance)
    varied = [Scene.varied(SEED + i, held_out=True) for i in range(settings.pictures)]
    varied_labels = labels_of_all(varied)
    varied_drawn = draw(folder, [varied_prompt_of(scene) for scene in varied], settings.steps, settings.guidance)
    # Other scenes than those that were drawn: pictures of one scene would count as near for that alone.
    features = [probe.features(one) for one in (drawn, truth, renders(held_out_scenes(settings.pictures, 1), size))]
    found = {
        "pictures": settings.pictures,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "drawn": accuracy(probe, drawn, labels, FIRST_RING),
        "probe_on_renders": accuracy(probe, truth, labels, FIRST_RING),
        "drawn_varied": accuracy(probe, varied_drawn, varied_labels, SECOND_RING),
        "probe_on_varied_renders": accuracy(probe, renders(varied, size), varied_labels, SECOND_RING),
        "kid": {"drawn": kernel_distance(features[0], features[2]), "renders": kernel_distance(*features[1:])},
        "autoencoder_psnr_db": psnr(autoencoder, truth),
    }
    if photos is not None:
        pictures = [photo.open() for photo in Concept.from_folder(photos, noun="thing").photos]
        pixels = torch.stack([media.square(picture, size) for picture in pictures])
        found["autoencoder_psnr_db_on_photos"] = psnr(autoencoder, pixels)
    return found


@torch.no_grad()
def kernel_distance(left: Tensor, right: Tensor) -> float:
    """Kernel inception distance x 1000 of two sets of features (N, D) and (M, D); unbiased, so it may fall below 0.

    Binkowski et al. 2018, https://arxiv.org/abs/1801.01401, here on the probe's features.
    """
    # The scale of features is the net's own; that of the right set is taken for the unit.
    scale = right.square().mean().sqrt()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return ((a / scale) @ (b / scale).T / a.shape[1] + 1) ** 3

    own = [
        (kernel(one, one).sum() - kernel(one, one).diagonal().sum()) / (len(one) * (len(one) - 1))
        for one in (left, right)
    ]
    return float(1000 * (own[0] + own[1] - 2 * kernel(left, right).mean()))


def check_video(folder: Path, settings: CheckSettings | None = None) -> dict[str, Any]:
    """Let the video base in `folder` / "video" draw held-out clips, and judge them with the motion probe.

    Returns accuracies of class and motion and the error of the path (share of the picture's width), for drawings
    and for true renders; and how alike neighbouring frames are, beside frames that the image net draws one by one.
    """
    settings = settings or CheckSettings()
    probe = load_motion_probe(folder)
    encoder = AutoModel.from_pretrained(folder / "subject_encoder").eval()
    clips = [Clip.random(SEED + i, MOTIONS[i % len(MOTIONS)], held_out=True) for i in range(settings.clips)]
    size = AutoencoderKL.load_config(folder / "vae")["sample_size"]
    prompts = [clip_prompt_of(clip) for clip in clips]
    truth = torch.from_numpy(np.stack([render_clip(clip, size) for clip in clips])).permute(0, 1, 4, 2, 3) / 255
    drawn = draw_clips(folder / "video", prompts, settings.steps, settings.guidance)
    single = draw(folder, [prompt for prompt in prompts for _ in range(FRAMES)], settings.steps, settings.guidance)
    labels = torch.tensor([clip_labels_of(clip) for clip in clips])
    paths = torch.from_numpy(np.stack([clip.path() for clip in clips]))
    return {
        "clips": len(clips),
        "drawn_clips": clip_accuracy(probe, drawn, labels, paths),
        "probe_on_rendered_clips": clip_accuracy(probe, truth, labels, paths),
        "frame_likeness": {
            "video": _frame_likeness(encoder, drawn),
            "image_net_per_frame": _frame_likeness(encoder, single.unflatten(0, (-1, FRAMES))),
            "renders": _frame_likeness(encoder, truth),
        },
    }


@torch.no_grad()
def _frame_likeness(encoder: nn.Module, clips: Tensor) -> float:
    """Mean cosine of the features of neighbouring frames of clips (N, F, 3, H, W)."""
    features = torch.cat(
        [encoder(standardized(part)).pooler_output.flatten(1) for part in clips.flatten(0, 1).split(64)]
    )
    features = functional.normalize(features, dim=1).unflatten(0, clips.shape[:2])
    return float((features[:, 1:] * features[:, :-1]).sum(-1).mean())


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


def sample_sheet(
    pipeline: StableDiffusionPipeline, size: int, settings: CheckSettings, rows: int = 8, columns: int = 5
) -> Image.Image:
    """A row for each of the first held-out scenes: how it truly looks, then `columns` drawings of its prompt."""
    scenes = held_out_scenes(rows)
    prompts = [prompt_of(scene) for scene in scenes]
    truth = renders(scenes, size)
    asked = [prompt for prompt in prompts for _ in range(columns)]
    drawn = drawn_by(pipeline, asked, settings.steps, settings.guidance)
    pictures = [to_image(pixels) for pixels in drawn]
    return contact_sheet([
        (prompt, [to_image(truth[row]), *pictures[row * columns : (row + 1) * columns]])
        for row, prompt in enumerate(prompts)
    ])  # fmt: skip


def clip_sheet(folder: Path, settings: CheckSettings) -> Image.Image:
    """A row for each motion: the eight frames that the video base in `folder` draws of a held-out subject."""
    clips = [Clip.random(SEED + 50 + i, motion, held_out=True) for i, motion in enumerate(MOTIONS)]
    prompts = [clip_prompt_of(clip) for clip in clips]
    drawn = draw_clips(folder, prompts, settings.steps, settings.guidance)
    return contact_sheet(
        [(prompt, [to_image(frame) for frame in clip]) for prompt, clip in zip(prompts, drawn, strict=True)]
    )


def held_out_scenes(count: int, number: int = 0) -> list[Scene]:
    """Scenes of compositions that were kept from training, always the same; another `number`, others."""
    return [Scene.random(SEED + number * 1_000_000 + i, held_out=True) for i in range(count)]


def prompt_of(scene: Scene) -> str:
    """A full, plain description: both colours, pattern, class, context and view."""
    subject, view = scene.subject, scene.camera.view
    pattern = "" if subject.pattern == "plain" else f" {subject.pattern}"
    look = f"{subject.primary} and {subject.secondary}{pattern} {subject.class_name}"
    return f"a photo of {with_article(look)} {CONTEXT_PHRASES[scene.context][0]}" + (f", {view} view" if view else "")


def varied_prompt_of(scene: Scene) -> str:
    """A full description of a scene of the second ring."""
    subject, companion = scene.subject, scene.companion
    look = f"{subject.primary} {subject.class_name}" if scene.style != "pencil" else subject.class_name
    look = f"{FINISH_WORDS[scene.finish][0]} {look}" if scene.finish != "matte" else look
    words = with_article(look)
    if scene.accessory:
        words += f" wearing {with_article(scene.accessory)}"
    if companion:
        words += f" {companion.relation} {with_article(f'{companion.subject.primary} {companion.subject.class_name}')}"
    opening = "a photo of" if scene.style == "photo" else STYLE_PHRASES[scene.style][0]
    view = f", {scene.camera.view} view" if scene.camera.view else ""
    return f"{opening} {words} {CONTEXT_PHRASES[scene.context][0]}{view}"


def clip_prompt_of(clip: Clip) -> str:
    """A full description of a clip: both colours, pattern, class, motion and context."""
    said = prompt_of(clip.scene).removeprefix("a photo of").partition(",")[0]
    motion, place = MOTION_PHRASES[clip.motion][0], CONTEXT_PHRASES[clip.scene.context][0]
    if clip.motion in CAMERA_MOTIONS:
        return f"a video of{said}, {motion}"
    return f"a video of{said.removesuffix(place)}{motion} {place}"


def renders(scenes: list[Scene], size: int) -> Tensor:
    """The scenes as they truly look, (N, 3, size, size) in [0, 1]."""
    images = np.stack([render(scene, size).image for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def labels_of_all(scenes: list[Scene]) -> Tensor:
    """Indices of the truth (N, heads)."""
    return torch.tensor([labels_of(scene) for scene in scenes])


def draw(folder: Path, prompts: list[str], steps: int, guidance: float, batch: int = 20) -> Tensor:
    """What the base in `folder` draws of `prompts`, (N, 3, H, W) in [0, 1]; prompt i from noise seed i."""
    return drawn_by(StableDiffusionPipeline.from_pretrained(folder), prompts, steps, guidance, batch)


def drawn_by(
    pipeline: StableDiffusionPipeline, prompts: list[str], steps: int, guidance: float, batch: int = 20
) -> Tensor:
    """What a pipeline draws of `prompts`, (N, 3, H, W) in [0, 1]; prompt i from noise seed i."""
    pipeline.set_progress_bar_config(disable=True)
    parts: list[Tensor] = []
    for start in range(0, len(prompts), batch):
        asked = prompts[start : start + batch]
        noise = [torch.Generator().manual_seed(start + i) for i in range(len(asked))]
        drawn = pipeline(asked, num_inference_steps=steps, guidance_scale=guidance, generator=noise, output_type="pt")
        parts.append(drawn.images)
    return torch.cat(parts).float()


def draw_clips(folder: Path, prompts: list[str], steps: int, guidance: float, batch: int = 5) -> Tensor:
    """What the video base in `folder` draws of `prompts`, (N, F, 3, H, W) in [0, 1]; prompt i from noise seed i."""
    pipeline = TextToVideoSDPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    parts: list[Tensor] = []
    for start in range(0, len(prompts), batch):
        asked = prompts[start : start + batch]
        noise = [torch.Generator().manual_seed(start + i) for i in range(len(asked))]
        drawn = pipeline(
            asked, num_frames=FRAMES, height=64, width=64, num_inference_steps=steps, guidance_scale=guidance,
            generator=noise, output_type="pt",
        )  # fmt: skip
        parts.append(drawn.frames)
    return torch.cat(parts).float()


def load_motion_probe(folder: Path) -> MotionProbe:
    """The classifier of clips that lies beside the base in `folder`."""
    path = folder / "motion_probe" / "model.safetensors"
    if not path.is_file():
        raise PcsError(
            f"{folder}: has no motion_probe/model.safetensors, so it is not an edition of the embedded base."
        )
    weights = {name: tensor.float() for name, tensor in load_file(path).items()}
    probe = MotionProbe(_widths(weights))
    probe.load_state_dict(weights)
    return probe.eval()


def _widths(weights: dict[str, Tensor]) -> tuple[int, ...]:
    """The widths that a probe with these weights was made with."""
    widths = [weights["stem.weight"].shape[0]]
    while (name := f"blocks.{len(widths) - 1}.first.weight") in weights:
        widths.append(weights[name].shape[0])
    return tuple(widths)


def load_probe(folder: Path) -> Probe:
    """The classifier that lies beside the base in `folder`."""
    path = folder / "probe" / "model.safetensors"
    if not path.is_file():
        raise PcsError(f"{folder}: has no probe/model.safetensors, so it is not an edition of the embedded base.")
    weights = {name: tensor.float() for name, tensor in load_file(path).items()}
    probe = Probe(_widths(weights))
    probe.load_state_dict(weights)
    return probe.eval()
