"""A tiny build of the base: it learns, goes on after a kill as if nothing had happened, and writes a usable folder."""

import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from modalities.core.errors import Interrupted, PcsError
from modalities.core.progress import Silent, StopRequest, stop_on_signals
from modalities.core.temporal import bypassed
from modalities.mini import captions, settings
from modalities.mini.autoencoder import batches, encoded, new_autoencoder, normalize_latents, psnr
from modalities.mini.build import Workshop, build
from modalities.mini.denoiser import LatentSet, new_unet, new_video_unet, token_ids, with_words
from modalities.mini.muon import orthogonalized
from modalities.mini.shards import captions_of
from modalities.mini.tokenizer import train_tokenizer
from modalities.mini.training import Stretch, Trainer

RECIPE = Path(__file__).parents[3] / "recipes" / "bases" / "mini.yaml"
TINY = {
    "edition": 1,
    "seed": 3,
    "size": 32,
    "vocabulary": 900,
    "world": {"pictures": 48, "varied": 16, "clips": 4},
    "autoencoder": {
        "channels": [8, 8, 16], "pictures": 48, "steps_on_crops": 12, "steps_on_pictures": 4,
        "batch_on_crops": 8, "batch_on_pictures": 4, "learning_rate": 0.003, "warmup": 2, "anneal": 4,
        "average": 0.9, "foreign_share": 0.25, "kl_weight": 0.005, "halved_weight": 0.25,
    },
    "decoder": {
        "steps_on_crops": 3, "steps_on_pictures": 2, "learning_rate": 0.001, "warmup": 1, "average": 0.9,
    },
    "together": [
        {
            "pictures": 48, "learning_rate": 0.001, "warmup": 1, "average": 0.9, "hold": 0.1,
            "foreign_share": foreign_share, "steps": 3, "anneal": 2,
        }
        for foreign_share in (0.25, 0.0)
    ],
    "denoiser": {
        "channels": [16, 32, 32], "head_width": 16, "text_width": 32, "text_layers": 1,
        "prediction": "v_prediction", "snr_limit": 5, "batch": 8, "learning_rate": 0.003, "warmup": 2,
        "caption_dropout": 0.1, "average": 0.9,
        "lessons": [
            {"until": 3, "captions": 2, "named_views": 0.4},
            {"until": 6, "captions": 2, "named_views": 0.8, "varied_share": 0.25, "frame_share": 0.25},
        ],
    },
    "anneal": {"steps": 3},
    "video": {
        "batch": 2, "noise_shift": 3, "learning_rate": 0.001, "warmup": 1, "average": 0.9, "steps": 4, "anneal": 2,
    },
    "motion_words": [
        {
            "added": {motion: [word]}, "share": 0.5, "embedding_rate": 10, "motion_weight": 4,
            "batch": 2, "noise_shift": 3, "learning_rate": 0.001, "warmup": 1, "average": 0.9, "steps": 3, "anneal": 2,
        }
        for motion, word in (("zoom", "zooms"), ("roll", "rolling"))
    ],
    "motion_probe": {"widths": [8, 16], "steps": 3, "batch": 2, "learning_rate": 0.002},
    "probe": {"widths": [8, 16], "steps": 3, "batch": 8, "learning_rate": 0.002},
    "subject_encoder": {
        "widths": [8, 16], "families": 60, "views": 2, "classes": 2, "individuals": 4, "temperature": 0.1,
        "class_weight": 0.2, "steps": 3, "learning_rate": 0.001,
    },
    "clip": {"width": 32, "layers": 1, "patch": 8, "steps": 3, "batch": 8, "learning_rate": 0.001},
    "check": {"pictures": 4, "clips": 2, "steps": 2, "guidance": 2.0},
}  # fmt: skip


class KilledAt(Silent):
    """Sends SIGTERM to the process after so many steps of a stage."""

    def __init__(self, stage: str, steps: int) -> None:
        self.stage, self.left, self.current = stage, steps, ""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self.current = stage

    def advance(self, steps: int = 1, **values: float) -> None:
        if self.current == self.stage:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def recipe():
    return settings.BuildRecipe.model_validate(TINY)


@pytest.fixture(scope="module")
def built(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    facts = build(recipe, folder / "out", folder / "cache", Silent())
    return folder / "out", facts


def test_the_shipped_recipe_is_whole():
    recipe = settings.load(RECIPE)
    assert recipe.denoiser.channels[0] % recipe.denoiser.head_width == 0


def test_a_recipe_with_a_mistake_says_where(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text("build: {edition: 1, sead: 3}")
    with pytest.raises(PcsError, match=r"build\.sead"):
        settings.load(path)


def test_a_build_killed_in_the_middle_ends_with_the_same_bytes(recipe, built, tmp_path):
    for stage, steps in (
        ("render", 1),
        ("autoencoder", 7),
        ("denoiser", 4),
        ("anneal", 2),
        ("video", 2),
        ("video_anneal", 1),
        ("motion_words", 2),
        ("motion_words_anneal", 1),
        ("together", 2),
        ("together_anneal", 1),
    ):
        with pytest.raises(Interrupted):
            build(recipe, tmp_path / "out", tmp_path / "cache", KilledAt(stage, steps))
    build(recipe, tmp_path / "out", tmp_path / "cache", Silent())
    for path in sorted(built[0].rglob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(built[0])).read_bytes(), path


def test_the_folder_loads_as_a_pipeline_without_a_warning(built):
    from diffusers import StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = StableDiffusionPipeline.from_pretrained(built[0])
    pipeline.set_progress_bar_config(disable=True)
    asked = {"prompt": "a photo of a mug", "num_inference_steps": 2, "output_type": "np"}
    first, again = (pipeline(**asked, generator=torch.Generator().manual_seed(1)).images for _ in range(2))
    assert first.shape == (1, 32, 32, 3)
    assert np.array_equal(first, again)


def test_the_metric_encoders_load_by_their_auto_classes(built):
    from PIL import Image

    from modalities.core.encoders import ImageEncoder, TextImageEncoder

    picture, device = Image.new("RGB", (50, 40), "red"), torch.device("cpu")
    assert ImageEncoder(str(built[0] / "subject_encoder"), device)([picture]).shape == (1, 16)
    clip = TextImageEncoder(str(built[0] / "clip"), device)
    assert clip([picture]).shape == clip.text(["a mug"]).shape == (1, 32)


def test_the_facts_say_what_was_measured_and_how(built):
    out, facts = built
    assert facts["denoiser_samples"] == 9 * 8
    assert set(facts["measured"]["drawn"]) == set(facts["measured"]["probe_on_renders"])
    assert "edition 1" in (out / "README.md").read_text()


def test_the_video_net_draws_one_frame_as_the_image_net_does_bit_for_bit(built):
    from diffusers import UNet2DConditionModel, UNet3DConditionModel

    flat = UNet2DConditionModel.from_pretrained(built[0] / "unet").eval()
    video = UNet3DConditionModel.from_pretrained(built[0] / "video" / "unet").eval()
    own = video.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in flat.state_dict().items())
    latents, words, times = torch.randn(2, 4, 8, 8), torch.randn(2, 32, 32), torch.tensor([10, 700])
    with torch.no_grad():
        picture = flat(latents, times, words).sample
        with bypassed(video):
            frame = video(latents[:, :, None], times, words).sample[:, :, 0]
        moved = video(latents[:, :, None], times, words).sample[:, :, 0]
    assert torch.equal(picture, frame)
    assert not torch.equal(picture, moved), "its temporal layers learned nothing"


def test_an_untrained_video_net_draws_every_frame_as_the_image_net_does():
    flat = new_unet((32, 32, 64), 16, 32, 8).eval()
    video = new_video_unet(flat).eval()
    latents, words, times = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 32, 32), torch.tensor([10, 700])
    with torch.no_grad():
        frames = torch.stack([flat(latents[:, :, i], times, words).sample for i in range(3)], 2)
        assert torch.allclose(video(latents, times, words).sample, frames, atol=1e-5)


def test_the_folder_loads_as_a_video_pipeline(built):
    from diffusers import TextToVideoSDPipeline

    pipeline = TextToVideoSDPipeline.from_pretrained(built[0] / "video")
    pipeline.set_progress_bar_config(disable=True)
    asked = {"num_frames": 8, "height": 32, "width": 32, "num_inference_steps": 2, "output_type": "pt"}
    assert pipeline("a video of a mug spinning", **asked).frames.shape == (1, 8, 3, 32, 32)


def test_words_of_motion_get_tokens_that_learn_and_other_prompts_stay_as_they_were(recipe, built):
    shop = Workshop(recipe, built[0].parent / "cache" / "mini", Silent(), StopRequest(), torch.device("cpu"))
    old, new = shop.denoiser["text_encoder"], shop.video["text_encoder"]
    assert "rolling" in shop.worded_tokenizer.tokenize("a rolling mug")
    assert "rolling" not in shop.worded_tokenizer.tokenize("a trolling mug")

    plain = ["a photo of a mug on the beach", "a video of a car, the camera orbits"]
    tokens = token_ids(shop.worded_tokenizer, plain)
    assert np.array_equal(tokens, token_ids(shop.tokenizer, plain))
    ids = torch.from_numpy(tokens).long()
    with torch.no_grad():
        assert torch.equal(old(ids).last_hidden_state, new(ids).last_hidden_state)

    begun = with_words(old, shop.tokenizer, shop.worded_tokenizer).get_input_embeddings().weight
    learned = new.get_input_embeddings().weight
    assert torch.equal(begun[: len(shop.tokenizer)], learned[: len(shop.tokenizer)])
    rolling = shop.worded_tokenizer.convert_tokens_to_ids("rolling")
    assert (begun != learned)[rolling].all()


def test_motion_weight_counts_what_differs_between_frames_so_many_times(recipe, built):
    shop = Workshop(recipe, built[0].parent / "cache" / "mini", Silent(), StopRequest(), torch.device("cpu"))
    networks = nn.ModuleDict(
        {"text_encoder": shop.denoiser["text_encoder"], "unet": new_video_unet(shop.denoiser["unet"])}
    )
    still = np.repeat(np.random.default_rng(0).standard_normal((4, 1, 4, 8, 8)).astype(np.float16), 8, 1)
    tokens = token_ids(shop.tokenizer, ["a mug"])[None].repeat(4, 0)

    def loss(weight: float) -> float:
        clips = recipe.video.model_copy(update={"motion_weight": weight})
        task = shop.denoiser_task(networks, [LatentSet(still, tokens)], 2, 0, clips)
        with torch.no_grad():
            return float(task.loss(0))

    once, twice, thrice = loss(1), loss(2), loss(3)
    assert 0 < twice - once < once
    assert thrice - twice == pytest.approx(twice - once, rel=1e-3)


def test_two_processes_learn_what_one_does_and_go_on_after_a_kill(recipe, built, tmp_path):
    def denoiser(folder: Path, progress: Silent, processes: int) -> dict[str, torch.Tensor]:
        with stop_on_signals() as stop:
            return Workshop(recipe, folder, progress, stop, torch.device("cpu"), processes).denoiser.state_dict()

    with pytest.raises(Interrupted):
        denoiser(tmp_path, KilledAt("denoiser", 2), 2)
    alone, shared = denoiser(built[0].parent / "cache" / "mini", Silent(), 1), denoiser(tmp_path, Silent(), 2)
    apart = [float((alone[name] - shared[name]).norm() / (1e-6 + alone[name].norm())) for name in alone]
    assert 0 < np.median(apart) < 0.05, "they differ by more than rounding, or only one of them worked"


def test_training_lowers_the_loss(recipe, tmp_path):
    shop = Workshop(recipe, tmp_path, Silent(), StopRequest(), torch.device("cpu"))
    networks = shop.new_networks()
    task = shop.denoiser_task(networks, shop.examples(recipe.denoiser.lessons[-1]), 8, recipe.seed)
    with torch.no_grad():
        before = np.mean([float(task.loss(step)) for step in range(1000, 1008)])
    Trainer(networks, tmp_path / "state.pt").train(
        task.loss, Stretch(0, 40, 0.003, 5), "denoiser", Silent(), StopRequest()
    )
    with torch.no_grad():
        after = np.mean([float(task.loss(step)) for step in range(1000, 1008)])
    assert after < 0.8 * before


def test_the_rate_rises_stays_and_falls():
    first = Stretch(0, 100, 1.0, warmup=10)
    assert [first.rate(step) for step in (0, 9, 99)] == [0.1, 1.0, 1.0]
    last = Stretch(100, 120, 1.0, anneal=20)
    assert [last.rate(step) for step in (100, 110, 119)] == [1.0, 0.5, 0.05]


def test_muon_brings_singular_values_near_one():
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(matrices))
    assert values.min() > 0.5 and values.max() < 1.3


def test_normalized_latents_decode_to_the_same_picture():
    model = new_autoencoder((8, 8, 16), 32).eval()
    pixels = torch.rand(6, 3, 32, 32)
    latents = encoded(model, pixels)
    with torch.no_grad():
        before = model.decode(latents).sample
        normalize_latents(model, latents)
        after, scaled = model.decode(encoded(model, pixels)).sample, encoded(model, pixels)
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(scaled.std((0, 2, 3)), torch.ones(4), atol=1e-3)


def test_both_halves_of_the_autoencoder_learn_on_while_latents_stay_what_they_meant(recipe, tmp_path):
    def shop_with(hold: float) -> Workshop:
        longer = {"hold": hold, "steps": 30, "anneal": 10, "learning_rate": 0.003}
        together = recipe.together[0].model_copy(update=longer)
        changed = recipe.model_copy(update={"together": (together,)})
        return Workshop(changed, tmp_path, Silent(), StopRequest(), torch.device("cpu"))

    shop, held = shop_with(0.0), shop_with(100.0)
    pixels = next(batches(shop.pictures, torch.device("cpu"), size=16))
    learned_from = encoded(shop.autoencoder, pixels)

    def moved(model) -> float:
        return float((encoded(model, pixels) - learned_from).square().mean())

    assert psnr(shop.finished_autoencoder, pixels) > psnr(shop.redecoded_autoencoder, pixels)
    assert 0 < moved(held.finished_autoencoder) < 0.5 * moved(shop.finished_autoencoder)
    assert moved(shop.redecoded_autoencoder) == moved(shop.autoencoder) == 0


def test_the_tokenizer_gives_a_word_one_token_and_an_unknown_word_pieces():
    said = [text for index in range(400) for text in captions_of(index, 1, 3)]
    tokenizer = train_tokenizer([*said, *captions.all_words() * 4], 2048)
    for word in (*captions.IDENTIFIERS, "mug", "checkered", "turquoise", "beach"):
        assert len(tokenizer(word).input_ids) == 3, word
    for text in ("quetzalcoatl surfing", "ünïcode 猫"):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids[1:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert max(len(ids) for ids in tokenizer(said).input_ids) <= tokenizer.model_max_length == 32


def test_pictures_come_back_from_disk_as_they_were_rendered(recipe, tmp_path):
    shop = Workshop(recipe, tmp_path, Silent(), StopRequest(), torch.device("cpu"))
    first = next(batches(shop.pictures, torch.device("cpu"), size=5))
    assert first.shape == (5, 3, 32, 32) and first.min() >= 0 and first.max() <= 1
    assert np.array_equal(shop.pictures.first(2)[np.array([1])], shop.pictures[np.array([1])])
