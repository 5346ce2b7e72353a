"""What each paper's own component does, on a tiny base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from modalities.core import bases
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.errors import PcsError
from modalities.core.peft_layers import folded, set_active, tuned_layers
from modalities.core.sampling import is_noisy
from modalities.core.schedule import FlowSchedule
from modalities.core.step import Batch, denoise
from modalities.core.studio import Studio
from modalities.video.components.initial_noise import share
from modalities.video.components.motion_guidance import MotionGuidance
from modalities.video.concept import with_clips
from modalities.video.generate import clip_of_studio
from modalities.video.lora_files import match, read, write
from modalities.video.trainer import VideoTrainer
from modalities.video.words import without_setting
from tests import tiny_clips
from tests.unit.video.conftest import Atelier

FOOTAGE = {"footage": {"frames": 4}}


def _advanced(studio: Studio, steps: int) -> VideoTrainer:
    trainer = VideoTrainer(studio)
    for _ in range(steps):
        trainer.advance()
    return trainer


# -- identity, then motion on the same directions ------------------------------------------------------------


def _two_stages(atelier: Atelier) -> Studio:
    return atelier.studio(
        components=[FOOTAGE, {"identity_basis": {"rank": 2}}, "motion_residual"],
        phases=[{"learn": {"identity_basis": 0.01}, "steps": 2}, {"learn": {"motion_residual": 0.01}, "steps": 2}],
    )


def test_the_second_stage_moves_the_coefficients_and_leaves_the_basis(atelier: Atelier) -> None:
    studio = _two_stages(atelier)
    trainer = _advanced(studio, 2)
    first = studio.weights()
    assert not any(value.any() for name, value in first.items() if name.startswith("motion_residual"))
    for _ in range(2):
        trainer.advance()
    second = studio.weights()
    assert all(torch.equal(second[name], value) for name, value in first.items() if name.startswith("identity_basis"))
    assert any(value.any() for name, value in second.items() if name.startswith("motion_residual"))
    assert not any("lora_A" in name for name in second if name.startswith("motion_residual"))


def test_the_motion_file_is_the_residual_on_the_basis_and_fits_the_base_whole(
    atelier: Atelier, siblings: tuple[Path, Path]
) -> None:
    studio = _two_stages(atelier)
    _advanced(studio, 4)
    run = Artifact(atelier.folder / "files")
    run.folder.mkdir()
    write(studio, run, frames=4)
    fresh = bases.load(bases.resolve(str(siblings[1])), choose("cpu"), offline=True)
    found = match(read(run.folder / "motion.safetensors"), fresh)
    assert not found.unmatched
    weights = studio.weights()
    name = next(name for name, layer in fresh.denoiser.named_modules() if layer in found.deltas)
    a = weights[f"identity_basis.unet.{name}.lora_A.weight"]
    b = weights[f"motion_residual.unet.{name}.lora_B.weight"]
    assert torch.allclose(found.deltas[fresh.denoiser.get_submodule(name)], b @ a, atol=1e-6)


def test_a_lora_of_diffusers_works_as_strongly_as_its_metadata_say(tmp_path: Path) -> None:
    layer = {"unet.a.to_q.lora_A.weight": torch.ones(4, 8), "unet.a.to_q.lora_B.weight": torch.ones(8, 4)}
    told = {"unet.r": 4, "unet.lora_alpha": 16, "unet.alpha_pattern": {"other.to_q": 2}}
    save_file(layer, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(told)})
    assert read(tmp_path / "lora.safetensors").layers["unet.a.to_q"][2] == 4
    told["unet.alpha_pattern"] = {"a.to_q": 2}
    save_file(layer, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(told)})
    assert read(tmp_path / "lora.safetensors").layers["unet.a.to_q"][2] == 0.5
    save_file(layer | {"unet.a.to_q.lora_magnitude_vector": torch.ones(8)}, tmp_path / "dora.safetensors")
    with pytest.raises(PcsError, match="is a DoRA"):
        read(tmp_path / "dora.safetensors")


def test_both_stages_learn_on_a_base_without_temporal_layers(atelier: Atelier, tmp_path: Path) -> None:
    atelier.base = tiny_clips.wan(tmp_path / "wan")
    studio = atelier.studio(
        components=[{"footage": {"frames": 5}}, {"identity_basis": {"rank": 2}}, "motion_residual"],
        phases=[{"learn": {"identity_basis": 0.01}, "steps": 2}, {"learn": {"motion_residual": 0.01}, "steps": 2}],
        data={"resolution": 32},
    )
    _advanced(studio, 4)
    for name in ("identity_basis", "motion_residual"):
        learned = [value for key, value in studio.weights().items() if key.startswith(name) and "lora_B" in key]
        assert learned
        assert all(value.any() for value in learned)


def test_a_residual_without_a_basis_is_refused(atelier: Atelier) -> None:
    with pytest.raises(PcsError, match="needs an identity_basis, listed before it"):
        atelier.studio(
            components=[FOOTAGE, "motion_residual"], phases=[{"learn": {"motion_residual": 0.01}, "steps": 1}]
        )


# -- a given first frame -------------------------------------------------------------------------------------


def _first_frame(atelier: Atelier, **settings: Any) -> Studio:
    return atelier.studio(
        components=[FOOTAGE, {"motion_lora": {"rank": 2}}, {"first_frame": settings}],
        phases=[{"learn": {"motion_lora": 0.01}, "steps": 2}],
    )


def test_the_first_frame_is_clean_at_every_time_and_has_no_say_in_the_loss(atelier: Atelier) -> None:
    studio = _first_frame(atelier)
    trainer = VideoTrainer(studio)
    for step in range(4):
        batch = studio.components[-1].batch(trainer.footage.clip_batch(step))
        noisy = studio.backbone.schedule.noised(batch.latents, batch.noise, batch.t)
        assert torch.allclose(noisy[:, :, 0], batch.latents[:, :, 0], atol=1e-4)
        assert not torch.allclose(noisy[:, :, 1], batch.latents[:, :, 1], atol=1e-2)
        answer = denoise(studio.backbone, batch)
        answer.prediction[:, :, 0] += 7
        assert torch.equal(answer.error, denoise(studio.backbone, batch).error)


def test_a_clip_begins_with_the_picture_that_is_given(atelier: Atelier) -> None:
    picture = atelier.folder / "start.png"
    Image.fromarray(tiny_clips.frames(1)[0]).save(picture)
    studio = _first_frame(atelier, image=str(picture))
    given = studio.components[-1].latents()
    made = clip_of_studio(studio, "a dog running", seed=0, index=0)
    assert torch.allclose(made[0], studio.backbone.decode(given)[0], atol=1e-4)
    drawn = clip_of_studio(_first_frame(atelier), "a dog running", seed=0, index=0)
    assert not torch.allclose(made[0], drawn[0], atol=1e-2)
    (atelier.folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(PcsError, match=r"first_frame.image: .*broken.png"):
        _first_frame(atelier, image=str(atelier.folder / "broken.png")).components[-1].latents()


def test_frames_share_as_much_noise_as_asked() -> None:
    z = torch.randn(4, 6, 64, 64, generator=torch.Generator().manual_seed(0))
    mixed = share(z, 0.3)
    assert float(mixed.var()) == pytest.approx(1, abs=0.03)
    assert float((mixed[:, 2] * mixed[:, 4]).mean()) == pytest.approx(0.3, abs=0.03)


# -- masks and words of clips --------------------------------------------------------------------------------


def _masked(atelier: Atelier, masks: Path) -> tuple[Studio, Batch]:
    """A studio with masks of clips, and a batch that they have weighed."""
    studio = atelier.studio(
        components=[
            {"clip_masks": {"masks": str(masks)}},
            FOOTAGE,
            {"motion_lora": {"rank": 2}},
            "appearance_debiased_loss",
        ],
        phases=[{"learn": {"motion_lora": 0.01}, "steps": 2}],
    )
    return studio, studio.components[0].batch(VideoTrainer(studio).footage.clip_batch(0))


def test_outside_the_mask_of_a_clip_errors_count_nothing(atelier: Atelier) -> None:
    masks = atelier.folder / "masks"
    masks.mkdir()
    still = np.zeros((64, 64), np.uint8)
    still[:32] = 255
    Image.fromarray(still).save(masks / f"{atelier.clip.stem}.png")
    studio, batch = _masked(atelier, masks)
    assert float(batch.weight.mean()) == pytest.approx(1)
    step = denoise(studio.backbone, batch)
    whole = [step.error, studio.components[3].loss(step, batch)]
    rows = step.prediction.shape[3]
    with torch.no_grad():
        # The edge of the mask is softened by bringing it to the size of the clip.
        step.prediction[:, :, :, rows // 2 + 2 :] += 5
    assert [float(value) for value in whole] == [float(step.error), float(studio.components[3].loss(step, batch))]
    with torch.no_grad():
        step.prediction[:, :, :, : rows // 2] += 5
    assert float(step.error) > float(whole[0]) + 1


def test_a_mask_moves_with_its_clip_and_one_that_does_not_fit_is_named(atelier: Atelier) -> None:
    masks = atelier.folder / "masks"
    with pytest.raises(PcsError, match=r"has no mask for right.mp4; name it right.png or .mp4"):
        _masked(atelier, masks)
    moving = np.where(tiny_clips.frames() > 118, 255, 0).astype(np.uint8).max(-1, keepdims=True).repeat(3, -1)
    path = tiny_clips.write(masks / "right.mp4", moving)
    weight = _masked(atelier, masks)[1].weight[0, 0]
    places = [float((frame.sum(0) * torch.arange(frame.shape[1])).sum() / frame.sum()) for frame in weight]
    assert places == sorted(places)
    assert places[-1] > places[0] + 2
    tiny_clips.write(path, moving[:5])
    with pytest.raises(PcsError, match="has 5 frames, its clip 8"):
        _masked(atelier, masks)


def test_words_of_the_place_are_left_out_and_words_of_the_motion_stay() -> None:
    for said, kept in {
        "a duck jumping on the grass": "a duck jumping",
        "a red car turning to the left in front of a wall": "a red car turning to the left",
        "a man jumping over a fence near the sea, oil painting": "a man jumping over a fence",
        "the camera moves around a mug": "the camera moves around a mug",
        "cats in the snow": "cats in the snow",
    }.items():
        assert without_setting(said) == kept


def test_a_clip_is_learned_without_its_place_when_asked(atelier: Atelier) -> None:
    studio = atelier.studio(
        components=[{"footage": {"frames": 4, "appearance_invariant": True}}, {"motion_lora": {"rank": 2}}],
        phases=[{"learn": {"motion_lora": 0.01}, "steps": 1}],
    )
    footage = VideoTrainer(studio).footage
    studio.concept = replace(footage.clips, captions=("a cat running on the beach",))
    assert footage.clip_batch(0).prompts == ("a cat running",)


def test_times_of_clips_are_drawn_towards_noise_when_asked(atelier: Atelier) -> None:
    def times(**settings: float) -> list[int]:
        studio = atelier.studio(
            components=[{"footage": {"frames": 4, **settings}}, {"motion_lora": {"rank": 2}}],
            phases=[{"learn": {"motion_lora": 0.01}, "steps": 1}],
        )
        footage = VideoTrainer(studio).footage
        return [int(footage.clip_batch(step).t) for step in range(40)]

    own, shifted = times(), times(noise_shift=4.0)
    assert all(late > early for early, late in zip(own, shifted, strict=True))
    assert np.mean(own) == pytest.approx(500, abs=30)
    assert np.mean(shifted) > 680


# -- adapters beside sublayers -------------------------------------------------------------------------------


def test_bottlenecks_begin_as_the_base_and_each_learns_in_its_own_pass(atelier: Atelier) -> None:
    studio = atelier.studio(
        components=[
            FOOTAGE,
            {"identity_adapter": {"rank": 4}},
            {"motion_adapter": {"rank": 4, "untold": 0.0}},
        ],
        phases=[{"learn": {"identity_adapter": 0.01, "motion_adapter": 0.01}, "steps": 4}],
    )
    trainer = VideoTrainer(studio)
    learn = trainer.phases[0].learn
    clips, t = torch.randn(1, 4, 4, 16, 16), torch.tensor([400])
    words = studio.backbone.conditioning(["a dog"])
    plain = studio.backbone.predict(clips, t, words)
    with trainer.working("clips"):
        assert torch.equal(studio.backbone.predict(clips, t, words), plain)
    studio.set_learning(learn)
    for source, learner in (("photos", "identity_adapter"), ("clips", "motion_adapter")):
        trainer._pass(source, learn)
        assert {name.partition(".")[0] for name, value in studio.parameters() if value.grad is not None} == {learner}
        for _, value in studio.parameters():
            value.grad = None
    for _ in range(3):
        trainer.advance()
    assert torch.equal(studio.backbone.predict(clips, t, words), plain), "off outside of its passes"
    with trainer.working("clips"):
        assert not torch.equal(studio.backbone.predict(clips, t, words), plain)
    moved = [name for name, value in studio.weights().items() if ".guide." in name and value.abs().max() > 0]
    assert moved, "the clip's looks are told while it learns"
    assert studio.components[-1].guide() is None, "and not afterwards"


# -- an image base that draws clips --------------------------------------------------------------------------


def _inflated(atelier: Atelier, image: Path) -> Studio:
    backbone = bases.load(bases.resolve(str(image)), choose("cpu"), offline=True, modality="video")
    concept = with_clips(Concept("thing", "thing"), [atelier.clip], ["a cat running"])
    chosen = atelier.recipe(
        components=[FOOTAGE, "inflated_attention"],
        phases=[{"learn": {"inflated_attention": 0.003}, "steps": 24}],
        backbone=str(image),
    )
    return Studio(backbone, concept, chosen, training=True, cache=Cache(atelier.folder / "cache"))


def test_an_inflated_image_base_keeps_its_pictures_and_lets_frames_see_each_other(
    atelier: Atelier, siblings: tuple[Path, Path]
) -> None:
    image = bases.load(bases.resolve(str(siblings[0])), choose("cpu"), offline=True)
    studio = _inflated(atelier, siblings[0])
    clips, t, words = torch.randn(1, 4, 4, 16, 16), torch.tensor([400]), image.conditioning(["a dog"])
    with torch.no_grad():
        apart = torch.stack([image.predict(clips[:, :, frame], t, words) for frame in range(4)], 2)
        assert torch.equal(studio.backbone.predict(clips[:, :, 1], t, words), apart[:, :, 1])
        together = studio.backbone.predict(clips, t, words)
    # The first frame looks at itself twice, which is looking at itself.
    assert torch.allclose(together[:, :, 0], apart[:, :, 0], atol=1e-4)
    assert not torch.allclose(together[:, :, 2], apart[:, :, 2], atol=1e-2)


def test_tuning_an_inflated_base_on_a_clip_lowers_its_error_at_other_noise(
    atelier: Atelier, siblings: tuple[Path, Path]
) -> None:
    studio = _inflated(atelier, siblings[0])
    trainer = VideoTrainer(studio)

    def error() -> float:
        with torch.no_grad(), trainer.working("clips"):
            return sum(
                float(denoise(studio.backbone, trainer.footage.clip_batch(step)).error) for step in range(900, 906)
            )

    before = error()
    for _ in range(24):
        trainer.advance()
    assert error() < 0.97 * before
    assert {name.rpartition("unet.")[2].split(".")[-1] for name, value in studio.weights().items() if value.any()} >= {
        "change",
        "weight",
    }


def test_an_image_base_is_not_inflated_twice(atelier: Atelier) -> None:
    with pytest.raises(PcsError, match="this base does already"):
        atelier.studio(components=[FOOTAGE, "inflated_attention"], phases=[])


# -- led by the motion ---------------------------------------------------------------------------------------


def _led(run: Artifact, atelier: Atelier, scale: float, common: float, **motion: float) -> Studio:
    guidance = {"scale": scale, "common": common}
    return run.studio(atelier.machine, changes={"components": {"motion_guidance": guidance, "motion_lora": motion}})


def test_guidance_takes_back_what_is_common_and_brings_out_what_differs(atelier: Atelier) -> None:
    run = atelier.run(motion_only=True)
    noisy = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def moves_and_added(
        scale: float, common: float, time: int = 500, **motion: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        t = torch.tensor([time])
        studio = _led(run, atelier, scale, common, **motion)
        words = studio.backbone.conditioning(["a dog running"])
        networks = studio.backbone.modules().values()
        with studio.sampling(), folded(networks, apart="motion_lora") as without, torch.no_grad():
            before = studio.backbone.predict(noisy, t, words)
            with without():
                moves = before - studio.backbone.predict(noisy, t, words)
            guidance = next(part for part in studio.components if isinstance(part, MotionGuidance))
            found = guidance.lead(noisy, t, words, before, without=without)
            # The motion is in place again.
            assert torch.equal(studio.backbone.predict(noisy, t, words), before)
        return moves, found

    moves, added = moves_and_added(3.0, 1.0)
    common = moves.mean(2, keepdim=True).expand_as(moves)
    assert (moves - common).std() > 1e-4
    assert torch.allclose(added, 3 * (moves - common), atol=1e-6)
    _, halved = moves_and_added(0.0, 0.5)
    assert torch.allclose(halved, -0.5 * common, atol=1e-6)
    _, both = moves_and_added(3.0, 0.5)
    assert torch.allclose(both, added + halved, atol=1e-6)
    # At cleaner times only what is common is taken back.
    moves, late = moves_and_added(3.0, 0.0, time=400)
    assert torch.allclose(late, -moves.mean(2, keepdim=True).expand_as(moves), atol=1e-6)
    assert not moves_and_added(3.0, 0.0, weight=0.0)[1].any()
    assert not moves_and_added(3.0, 1.0, time=400)[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["folded", "too coarse to fold"])
def test_one_of_two_folded_adapters_is_left_out_and_the_weights_come_back(dtype: torch.dtype) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    network = torch.nn.Sequential(torch.nn.Linear(4, 4, dtype=dtype), torch.nn.Linear(4, 4, dtype=dtype))
    # The first layer has both, the second "motion" alone; neither is as it begins.
    for name, targets in (("looks", ["0"]), ("motion", ["0", "1"])):
        config = LoraConfig(r=2, init_lora_weights=False, target_modules=targets)  # pyright: ignore
        inject_adapter_in_model(config, network, adapter_name=name)
    layers = list(tuned_layers(network).values())
    own = [layer.get_base_layer().weight.clone() for layer in layers]
    given = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)

    def answer(*adapters: str) -> torch.Tensor:
        for layer in layers:
            set_active(layer, [name for name in adapters if name in layer.scaling])
        return network(given)

    with torch.no_grad():
        looks, both = answer("looks"), answer("looks", "motion")
        assert not torch.allclose(looks, both, atol=1e-2)
        with folded([network], apart="motion") as without:
            for _ in range(2):
                assert torch.allclose(network(given), both, atol=1e-6)
                with without():
                    assert torch.allclose(network(given), looks, atol=1e-6)
        assert torch.equal(network(given), both)
    assert all(torch.equal(layer.get_base_layer().weight, weight) for layer, weight in zip(layers, own, strict=True))


def test_a_share_of_0_leaves_out_even_the_noisiest_time(atelier: Atelier) -> None:
    backbone = atelier.studio().backbone
    # Times of a flow reach the whole length.
    backbone.schedule = FlowSchedule({"shift": 3.0})
    noisiest = float(backbone.schedule.times[-1])
    assert noisiest == backbone.schedule.length
    assert not is_noisy(backbone, noisiest, 0.0)
    assert is_noisy(backbone, noisiest, 0.1)


@pytest.mark.parametrize(("scale", "common"), [(3.0, 1.0), (0.0, 0.0)], ids=["brought out", "taken back"])
def test_a_led_clip_is_another_one_and_by_nothing_the_same(atelier: Atelier, scale: float, common: float) -> None:
    run = atelier.run(motion_only=True)

    def clip(studio: Studio) -> torch.Tensor:
        return clip_of_studio(studio, "a dog running", seed=0, index=0)

    plain = clip(run.studio(atelier.machine))
    assert torch.equal(clip(_led(run, atelier, 0.0, 1.0)), plain)
    led = _led(run, atelier, scale, common)
    assert not torch.allclose(clip(led), plain, atol=1e-2)
    assert torch.equal(clip(led), clip(led))


def test_guidance_without_a_motion_to_lead_by_is_refused(atelier: Atelier) -> None:
    with pytest.raises(PcsError, match="motion_guidance: leads by motion_lora"):
        atelier.studio(
            components=[FOOTAGE, {"appearance_lora": {"rank": 2}}, "motion_guidance"],
            phases=[{"learn": {"appearance_lora": 0.01}, "steps": 2}],
        )
