"""Every family of video bases behind one face: learns appearance and motion, and reopens to what it previewed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modalities.core import bases
from modalities.core.device import choose
from modalities.core.errors import PcsError
from modalities.video.clips import save_clip
from modalities.video.generate import clip_of_studio
from modalities.video.lora_files import match, read
from tests import tiny_clips
from tests.unit.video.conftest import Atelier

FRAMES = {"unet3d": 4, "animatediff": 4, "wan": 5}


def _load(folder: Path):
    return bases.load(bases.resolve(str(folder)), choose("cpu"), offline=True)


@pytest.fixture(scope="module")
def folders(siblings: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {
        "unet3d": siblings[1],
        "animatediff": tiny_clips.animatediff(place / "animatediff", siblings[0]),
        "wan": tiny_clips.wan(place / "wan"),
    }


@pytest.mark.parametrize("family", [pytest.param("unet3d", marks=pytest.mark.slow), "animatediff", "wan"])
def test_a_family_learns_reopens_and_generates_what_it_previewed(
    family: str, folders: dict[str, Path], clip: Path, tmp_path: Path, encoders: tuple[str, str]
) -> None:
    atelier = Atelier(folders[family], clip, tmp_path, encoders)
    components = [
        {"footage": {"frames": FRAMES[family]}},
        {"appearance_lora": {"rank": 2}},
        {"appearance_absorber": {"rank": 2}},
        {"motion_lora": {"rank": 2}},
        "appearance_debiased_loss",
        "initial_noise",
    ]
    learn = {"appearance_lora": 0.01, "appearance_absorber": 0.01, "motion_lora": 0.01}
    run = atelier.run(
        components=components,
        phases=[{"learn": learn, "steps": 3}],
        data={"subject": "sks {noun}", "resolution": 32},
        validation={"every": 3, "prompts": ["a {}"], "images": 1},
    )
    weights = run.weights()
    assert {name.partition(".")[0] for name in weights} == {"appearance_lora", "motion_lora"}
    assert all(value.abs().max() > 0 for value in weights.values()), "both have learned"
    studio = run.studio(atelier.machine)
    assert all(torch.equal(value, weights[name]) for name, value in studio.weights().items())
    prompt = "a <new> running"
    made = clip_of_studio(studio, prompt, seed=0, index=0)
    assert made.shape == (FRAMES[family], 3, 32, 32)
    save_clip(made, run.folder / "again.mp4", studio.backbone.frames_per_second, {"prompt": prompt})
    assert (run.folder / "again.mp4").read_bytes() == (run.folder / "previews" / "0-0.mp4").read_bytes()


def test_numbers_of_frames_that_a_base_cannot_make_are_named_with_the_nearest(folders: dict[str, Path]) -> None:
    wan, animatediff = _load(folders["wan"]), _load(folders["animatediff"])
    with pytest.raises(PcsError, match=r"frames=8: this base takes 4k\+1 frames; use 9"):
        wan.require_frames(8)
    wan.require_frames(9)
    with pytest.raises(PcsError, match="at most 16 frames"):
        animatediff.require_frames(17)
    latents = wan.encode_clips(torch.rand(1, 9, 3, 32, 32)).mean
    assert latents.shape[1:] == wan.latent_shape(9, 32)
    assert wan.decode_clips(latents).shape == (1, 9, 3, 32, 32)


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
