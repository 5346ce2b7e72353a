"""What must hold on every video base: one frame is a picture, passes keep apart, nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modalities.core import bases, personalize
from modalities.core.artifact import Artifact, read_tensors
from modalities.core.device import choose
from modalities.core.peft_layers import tuned_layers
from modalities.video.adapter import present
from modalities.video.clips import save_clip
from modalities.video.generate import clip_of_studio
from modalities.video.trainer import VideoTrainer
from tests.unit.video.conftest import Atelier


def _load(folder: Path):
    return bases.load(bases.resolve(str(folder)), choose("cpu"), offline=True)


def test_one_frame_gets_the_answer_of_the_image_net_bit_for_bit(siblings: tuple[Path, Path]) -> None:
    image, video = (_load(folder) for folder in siblings)
    noisy, t = torch.randn(2, 4, 16, 16), torch.tensor([100, 700])
    words = image.conditioning(["a dog", "a cat in the snow"])
    with torch.no_grad():
        flat = image.predict(noisy, t, words)
        assert torch.equal(video.predict(noisy, t, words), flat)
        assert torch.equal(video.predict(noisy[:, :, None], t, words)[:, :, 0], flat)
        two = video.predict(torch.stack([noisy, noisy], 2), t, words)
    assert not torch.allclose(two[:, :, 0], flat, atol=1e-3), "two frames must see each other"


def test_layers_of_the_two_paths_do_not_overlap_and_are_named_as_in_the_image_net(
    siblings: tuple[Path, Path],
) -> None:
    image, video = (_load(folder) for folder in siblings)
    spatial, temporal = video.select("spatial"), video.select("temporal")
    assert spatial
    assert temporal
    assert not set(spatial) & set(temporal)
    assert set(spatial) <= {name for name, _ in image.denoiser.named_modules()}
    assert all("temp" in name or "transformer_in" in name for name in temporal)
    assert set(video.select("temporal.qk")) < set(video.select("temporal.qkv")) < set(temporal)


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_a_step_changes_only_what_its_passes_train(atelier: Atelier) -> None:
    studio = atelier.studio()
    trainer = VideoTrainer(studio)
    start = studio.weights()
    for _ in range(4):
        trainer.advance()
    appearance = studio.weights()
    assert _moved(start, appearance) == {"textual_inversion", "appearance_lora"}
    for _ in range(6):
        trainer.advance()
    assert _moved(appearance, studio.weights()) == {"appearance_absorber", "motion_lora"}


def test_a_pass_over_clips_gives_no_gradient_to_spatial_layers_and_one_over_frames_none_to_temporal(
    atelier: Atelier,
) -> None:
    studio = atelier.studio(phases=[{"learn": {"appearance_absorber": 0.01, "motion_lora": 0.01}, "steps": 9}])
    trainer = VideoTrainer(studio)
    learn = trainer.phases[0].learn
    studio.set_learning(learn)
    for source, learner in (("frames", "appearance_absorber"), ("clips", "motion_lora")):
        trainer._pass(source, learn)
        with_gradient = {name.partition(".")[0] for name, value in studio.parameters() if value.grad is not None}
        assert with_gradient == {learner}
        for _, value in studio.parameters():
            value.grad = None


def test_with_all_adapters_off_the_net_is_the_base_bit_for_bit(atelier: Atelier) -> None:
    studio, plain = atelier.studio(), _load(atelier.base)
    with torch.no_grad():
        for _, value in studio.parameters():
            value.add_(torch.randn_like(value))
    noisy, t = torch.randn(1, 4, 4, 16, 16), torch.tensor([400])
    words = plain.conditioning(["a dog"])
    with torch.no_grad():
        assert torch.equal(studio.backbone.predict(noisy, t, words), plain.predict(noisy, t, words))
        with present([studio.backbone.denoiser], ["motion_lora"]):
            assert not torch.equal(studio.backbone.predict(noisy, t, words), plain.predict(noisy, t, words))


def test_at_weight_zero_a_run_makes_the_clips_of_the_base(atelier: Atelier) -> None:
    run = atelier.run(motion_only=True)
    untrained = atelier.run("untrained", motion_only=True, phases=[{"learn": {"motion_lora": 1e-30}, "steps": 1}])
    off = run.studio(atelier.machine, changes={"components": {"motion_lora": {"weight": 0.0}}})
    made, base = (
        clip_of_studio(studio, "a dog running", seed=1, index=0) for studio in (off, untrained.studio(atelier.machine))
    )
    assert torch.equal(made, base)
    on = clip_of_studio(run.studio(atelier.machine), "a dog running", seed=1, index=0)
    assert not torch.equal(on, base)


def test_what_is_saved_is_what_is_loaded(atelier: Atelier) -> None:
    run = atelier.run()
    studio = run.studio(atelier.machine)
    assert "appearance_absorber" not in {name.partition(".")[0] for name in run.weights()}
    assert all(torch.equal(value, run.weights()[name]) for name, value in studio.weights().items())
    motion, about = read_tensors(run.folder / "motion.safetensors")
    learned = {name.removeprefix("motion_lora."): value for name, value in studio.weights().items()}
    assert set(motion) <= set(learned)
    # Rank 2, alpha 4: the file carries the scale in B.
    assert all(torch.equal(value, learned[name] * (2 if "lora_B" in name else 1)) for name, value in motion.items())
    assert '"rank": 2' in about["pcs"]
    prompt = run.concept().prompt("a {} running")
    made = clip_of_studio(studio, prompt, seed=0, index=0)
    save_clip(made, run.folder / "again.mp4", 8, {"prompt": prompt})
    assert (run.folder / "again.mp4").read_bytes() == (run.folder / "previews" / "0-0.mp4").read_bytes()


@pytest.mark.parametrize("at", [pytest.param(2, marks=pytest.mark.slow), 7])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    at: int, atelier: Atelier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = atelier.run("whole")
    own, taken = VideoTrainer.advance, []

    def dying(self: VideoTrainer) -> float:
        if len(taken) == at:
            raise RuntimeError("killed")
        taken.append(1)
        return own(self)

    monkeypatch.setattr(personalize, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        patched.setattr(VideoTrainer, "advance", dying)
        atelier.run("stopped")
    stopped = atelier.run("stopped", resume=True)
    assert _bytes(whole) == _bytes(stopped)


def _bytes(run: Artifact) -> dict[str, bytes]:
    paths = [path for path in run.folder.rglob("*") if path.suffix in (".safetensors", ".jsonl", ".mp4", ".gif")]
    assert len(paths) > 6
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in paths}


def test_checkpointed_gradients_are_the_same_gradients(atelier: Atelier) -> None:
    found = []
    for enabled in (False, True):
        learn = {"motion_lora": 0.01}
        studio = atelier.studio(
            phases=[{"learn": learn, "steps": 9}], train={"batch": 1, "gradient_checkpointing": enabled}
        )
        trainer = VideoTrainer(studio)
        studio.set_learning(learn)
        trainer.backward()
        found.append(torch.cat([value.grad.flatten() for _, value in studio.parameters() if value.grad is not None]))
    assert found[0].abs().max() > 0
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_learning_a_clip_lowers_the_error_of_what_moves_at_noise_it_was_not_trained_on(atelier: Atelier) -> None:
    phases = [{"learn": {"appearance_absorber": 0.005, "motion_lora": 0.01}, "steps": 40}]
    run = atelier.run(motion_only=True, phases=phases, validation={"every": 40, "prompts": ["a {}"], "images": 1})
    first, last = [line for line in run.metrics() if "motion_loss" in line]
    assert last["motion_loss"] < 0.9 * first["motion_loss"]


def test_each_clip_has_an_absorber_of_its_own(atelier: Atelier) -> None:
    studio = atelier.studio(clips=2)
    names = {name for layer in tuned_layers(studio.backbone.denoiser).values() for name in layer.scaling}
    assert {"appearance_absorber_0", "appearance_absorber_1", "motion_lora"} <= names
    trainer = VideoTrainer(studio)
    seen = set()
    for step in range(40):
        trainer.step = step
        on = [name for name in trainer.adapters("clips") if name.startswith("appearance_absorber")]
        assert on in ([], [f"appearance_absorber_{trainer.footage.which(step)}"])
        seen |= set(on)
    assert len(seen) == 2
