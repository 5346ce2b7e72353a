"""Every family of video bases behind one face: learns appearance and motion, and reopens to what it previewed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modalities.core import bases
from modalities.core.device import choose
from modalities.core.errors import PcsError
from modalities.video.backbone import block_of
from modalities.video.clips import save_clip
from modalities.video.generate import clip_of_studio
from modalities.video.lora_files import match, read
from tests import tiny_clips
from tests.unit.video.conftest import Atelier

FRAMES = {"unet3d": 4, "animatediff": 4, "wan": 5, "wan22": 5, "cogvideox": 9, "ltx": 9}
SIDE = {"ltx": 64}
# Each of two experts learns in some of the steps only.
STEPS = {"wan22": 8}
SLOW = {"unet3d", "wan"}


def _load(folder: Path):
    return bases.load(bases.resolve(str(folder)), choose("cpu"), offline=True)


@pytest.fixture(scope="module")
def folders(siblings: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {
        "unet3d": siblings[1],
        "animatediff": tiny_clips.animatediff(place / "animatediff", siblings[0]),
        "wan": tiny_clips.wan(place / "wan"),
        "wan22": tiny_clips.wan(place / "wan22", experts=2),
        "cogvideox": tiny_clips.cogvideox(place / "cogvideox"),
        "ltx": tiny_clips.ltx(place / "ltx"),
    }


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in FRAMES]
)
def test_a_family_learns_reopens_and_generates_what_it_previewed(
    family: str, folders: dict[str, Path], clip: Path, tmp_path: Path, encoders: tuple[str, str]
) -> None:
    atelier, side = Atelier(folders[family], clip, tmp_path, encoders), SIDE.get(family, 32)
    components = [
        {"footage": {"frames": FRAMES[family]}},
        {"appearance_lora": {"rank": 2}},
        {"appearance_absorber": {"rank": 2}},
        {"motion_lora": {"rank": 2}},
        "appearance_debiased_loss",
        "initial_noise",
    ]
    learn = {"appearance_lora": 0.01, "appearance_absorber": 0.01, "motion_lora": 0.01}
    steps = STEPS.get(family, 3)
    run = atelier.run(
        components=components,
        phases=[{"learn": learn, "steps": steps}],
        data={"subject": "sks {noun}", "resolution": side},
        validation={"every": steps, "prompts": ["a {}"], "images": 1},
    )
    weights = run.weights()
    assert {name.partition(".")[0] for name in weights} == {"appearance_lora", "motion_lora"}
    assert all(value.abs().max() > 0 for value in weights.values()), "both have learned"
    studio = run.studio(atelier.machine)
    assert all(torch.equal(value, weights[name]) for name, value in studio.weights().items())
    prompt = "a <new> running"
    made = clip_of_studio(studio, prompt, seed=0, index=0)
    assert made.shape == (FRAMES[family], 3, side, side)
    save_clip(made, run.folder / "again.mp4", studio.backbone.frames_per_second, {"prompt": prompt})
    assert (run.folder / "again.mp4").read_bytes() == (run.folder / "previews" / "0-0.mp4").read_bytes()


def _packed(latents: torch.Tensor) -> torch.Tensor:
    return latents.flatten(2).transpose(1, 2)


# How a family's own pipeline takes latents, and how they become `(B, C, F, h, w)` again.
LAYOUTS = {
    "wan": (lambda latents: latents, lambda given, _: given),
    "cogvideox": (lambda latents: latents.transpose(1, 2), lambda given, _: given.transpose(1, 2)),
    "ltx": (_packed, lambda given, shape: given.transpose(1, 2).unflatten(2, shape[2:])),
}


@pytest.mark.parametrize("family", LAYOUTS)
def test_a_family_is_asked_and_decoded_as_its_own_pipeline_does(family: str, folders: dict[str, Path]) -> None:
    base, side = _load(folders[family]), SIDE.get(family, 32)
    there, back = LAYOUTS[family]
    latents = torch.randn(1, *base.latent_shape(9, side), generator=torch.Generator().manual_seed(0))
    told: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(_module: object, given: tuple, named: dict, answer: tuple) -> None:
        told.append((named["timestep"] if "timestep" in named else given[1], answer[0]))

    hook = base.denoiser.register_forward_hook(note, with_kwargs=True)
    size = {"height": side, "width": side, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 1.0}
    words = {"max_sequence_length": 16} if family == "cogvideox" else {}
    made = [
        base.pipeline()(prompt="a dog", latents=there(latents), output_type=kind, **size, **words).frames
        for kind in ("latent", "pt")
    ]
    hook.remove()
    t, answer = told[0]
    with torch.no_grad():
        ours = base.predict(latents, t, base.conditioning(["a dog"]))
        pixels = base.decode_clips(back(made[0], latents.shape))
    assert torch.allclose(ours, back(answer, latents.shape), atol=1e-5)
    assert torch.allclose(pixels, made[1], atol=1e-5)


def test_of_two_experts_the_first_is_asked_of_noisy_clips_and_the_second_of_cleaner_ones(
    folders: dict[str, Path],
) -> None:
    base = _load(folders["wan22"])
    noisy, words = torch.randn(2, *base.latent_shape(5, 32)), base.conditioning(["a dog", "a cat"])
    with torch.no_grad():
        before = base.predict(noisy, torch.tensor([900.0, 100.0]), words)
        next(iter(base.pipeline().transformer_2.blocks[0].ffn.parameters())).add_(0.5)
        after = base.predict(noisy, torch.tensor([900.0, 100.0]), words)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_numbers_of_frames_that_a_base_cannot_make_are_named_with_the_nearest(folders: dict[str, Path]) -> None:
    wan, animatediff, cogvideox, ltx = (_load(folders[name]) for name in ("wan", "animatediff", "cogvideox", "ltx"))
    with pytest.raises(PcsError, match=r"frames=8: this base takes 4k\+1 frames; use 9"):
        wan.require_frames(8)
    wan.require_frames(9)
    with pytest.raises(PcsError, match=r"frames=16: this base takes 8k\+1 frames; use 17"):
        ltx.require_frames(16)
    with pytest.raises(PcsError, match="at most 16 frames"):
        animatediff.require_frames(17)
    with pytest.raises(PcsError, match="at most 9 frames"):
        cogvideox.require_frames(17)
    with pytest.raises(PcsError, match=r"frames=5: this base takes 8k\+1 frames; use 9"):
        cogvideox.require_frames(5)
    latents = wan.encode_clips(torch.rand(1, 9, 3, 32, 32)).mean
    assert latents.shape[1:] == wan.latent_shape(9, 32)
    assert wan.decode_clips(latents).shape == (1, 9, 3, 32, 32)


def test_sizes_that_a_base_cannot_make_are_named_with_the_nearest(folders: dict[str, Path]) -> None:
    for family, side, near in (("wan", 40, 32), ("cogvideox", 56, 64), ("ltx", 40, 32), ("animatediff", 63, 64)):
        base = _load(folders[family])
        base.require_side(near)
        with pytest.raises(PcsError, match=f"data.resolution={side}: this base takes multiples of .* use {near}"):
            base.require_side(side)


@pytest.mark.parametrize("family", ["unet3d", "animatediff", "wan", "cogvideox", "ltx"])
def test_layers_and_blocks_are_called_alike_on_every_base(family: str, folders: dict[str, Path]) -> None:
    base = _load(folders[family])
    for layers in ("spatial", "temporal", "temporal.qk", "cross_attention", "feed_forward"):
        whole, blocks = base.select(layers), range(_blocks(base))
        assert {name for block in blocks for name in _of_block(base, layers, block)} >= {
            name for name in whole if "transformer_in" not in name
        }
    with pytest.raises(PcsError, match=r"blocks \[99\]: this base has blocks 0 to"):
        base.select_in("spatial", [0, 99])


def _blocks(base) -> int:
    return len({one for name, _ in base.denoiser.named_modules() if (one := block_of(name))})


def _of_block(base, layers: str, block: int) -> list[str]:
    try:
        return base.select_in(layers, [block])
    except PcsError as why:
        assert "those are in blocks" in str(why)
        return []


def test_animatediff_gives_one_frame_the_answer_of_the_image_net_and_takes_its_lora_whole(
    folders: dict[str, Path], siblings: tuple[Path, Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    image, video = _load(siblings[0]), _load(folders["animatediff"])
    noisy, t = torch.randn(2, 4, 16, 16), torch.tensor([100, 700])
    words = image.conditioning(["a dog", "a cat"])
    with torch.no_grad():
        assert torch.allclose(video.predict(noisy, t, words), image.predict(noisy, t, words), atol=1e-5)
    tensors = {}
    for name in image.select("attention"):
        layer = image.denoiser.get_submodule(name)
        tensors[f"unet.{name}.lora_A.weight"] = torch.zeros(2, layer.in_features)
        tensors[f"unet.{name}.lora_B.weight"] = torch.zeros(layer.out_features, 2)
    save_file(tensors, tmp_path / "lora.safetensors")
    count = len(tensors) // 2
    assert str(match(read(tmp_path / "lora.safetensors"), video)) == f"{count}/{count} modules matched"
