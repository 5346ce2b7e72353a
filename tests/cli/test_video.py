"""`pcs video` from the shell: clips of every kind, runs beside each other, and one clear line for what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modalities.video import clips
from modalities.video.clips import read_clip, save_clip
from tests import tiny, tiny_clips
from tests.conftest import Typed

Pcs = Callable[..., Typed]
TINY = [
    *("--set", "components.footage.frames=4", "--set", "sample.steps=1", "--set", "validation.every=2"),
    *("--set", "components.appearance_lora.rank=2", "--set", "components.motion_lora.rank=2"),
    *("--set", "components.appearance_absorber.rank=2"),
]
PHASES = 'phases=[{"learn": {"appearance_lora": 0.01, "appearance_absorber": 0.01, "motion_lora": 0.01}, "steps": 2}]'


def _one_line(typed: Typed, *words: str) -> None:
    assert typed.code == 2, typed.err
    assert "Traceback" not in typed.err
    assert typed.err.count("error:") == 1
    assert "\n" not in typed.message, typed.message
    for word in words:
        assert word in typed.message, typed.message


@pytest.fixture(scope="module")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_clips.siblings(tmp_path_factory.mktemp("siblings"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tiny_clips.write(tmp_path / "right.mp4", tiny_clips.frames())


def _ffmpeg(*words: object) -> None:
    subprocess.run([clips._executable(), "-y", "-loglevel", "error", *map(str, words)], check=True)


# -- looking at clips ----------------------------------------------------------------------------------------


def test_inspect_tells_what_a_clip_holds(pcs: Pcs, clip: Path) -> None:
    told = pcs("video", "inspect", clip, "--json").json
    assert (told["width"], told["height"], told["frames"]) == (64, 64, 8)
    assert told["frames_per_second"] == pytest.approx(8)
    assert not told["variable_frame_rate"]
    assert not told["cuts"]
    # 3 of 64 pixels a frame.
    assert told["motion"] == pytest.approx(100 * 3 / 64, rel=0.15)
    assert told["camera"] < 0.5
    assert told["bases"]["mini-video"] == list(range(8))
    assert Path(told["sheet"]).is_file()


def test_inspect_fits_into_80_columns(pcs: Pcs, clip: Path) -> None:
    typed = pcs("video", "inspect", clip)
    assert typed.code == 0
    assert max(len(line) for line in typed.out.splitlines() if not line.startswith("sheet")) <= 80


def test_inspect_says_how_many_frames_of_a_short_clip_fit_a_base(pcs: Pcs, tmp_path: Path) -> None:
    short = tiny_clips.write(tmp_path / "short.mp4", tiny_clips.frames(30), rate=24)
    told = pcs("video", "inspect", short, "--json").json["bases"]
    assert told["wan22-5b"] == "has 30 frames, and 49 at 24 a second are needed; 29 fit"
    assert len(told["mini-video"]) == 8


def test_more_than_a_hundred_frames_are_read(tmp_path: Path) -> None:
    long = tiny_clips.write(tmp_path / "long.mp4", tiny_clips.frames(130))
    assert clips.read_clip(long).read(range(121), 16).shape == (121, 3, 16, 16)


def test_a_file_that_is_no_video(pcs: Pcs, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("hello " * 100)
    _one_line(pcs("video", "inspect", "notes.mp4"), "notes.mp4", "is not a video")


def test_missing_empty_and_folder(pcs: Pcs, tmp_path: Path) -> None:
    (tmp_path / "none.mp4").touch()
    _one_line(pcs("video", "inspect", "gone.mp4"), "gone.mp4", "no such file")
    _one_line(pcs("video", "inspect", "none.mp4"), "none.mp4", "empty")
    _one_line(pcs("video", "inspect", tmp_path), "is a folder")


def test_one_frame(pcs: Pcs, tmp_path: Path) -> None:
    still = tiny_clips.write(tmp_path / "still.mp4", tiny_clips.frames(1))
    _one_line(pcs("video", "inspect", still), "still.mp4", "one frame only")


def test_too_few_frames_say_how_many_there_are(pcs: Pcs, tmp_path: Path) -> None:
    short = tiny_clips.write(tmp_path / "short.mp4", tiny_clips.frames(3))
    typed = pcs("video", "customize", "--clip", short, "--prompt", "a dog running")
    _one_line(typed, "short.mp4", "has 3 frames", "8")


def test_a_variable_frame_rate_is_told_and_frames_are_taken_at_even_times(pcs: Pcs, tmp_path: Path) -> None:
    slow, fast = (tiny_clips.frames(8)[half] for half in (slice(0, 4), slice(4, 8)))
    first = tiny_clips.write(tmp_path / "a.mkv", slow, rate=4)
    second = tiny_clips.write(tmp_path / "b.mkv", fast, rate=16)
    (tmp_path / "list.txt").write_text(f"file '{first}'\nfile '{second}'\n")
    _ffmpeg("-f", "concat", "-safe", 0, "-i", tmp_path / "list.txt", "-c", "copy", tmp_path / "both.mkv")
    typed = pcs("video", "inspect", "both.mkv", "--json")
    assert typed.json["variable_frame_rate"]
    assert "variable frame rate" in typed.err
    clip = read_clip(tmp_path / "both.mkv")
    times = [clip.times[frame] for frame in clip.choose(4)]
    assert np.diff(times).max() < 2.5 * np.diff(times).min()


def test_a_phone_s_turned_video_stands_upright(pcs: Pcs, tmp_path: Path) -> None:
    lying = tiny_clips.write(tmp_path / "lying.mp4", tiny_clips.frames(4, size=(48, 96)))
    _ffmpeg("-display_rotation", 90, "-i", lying, "-c", "copy", tmp_path / "turned.mp4")
    told = pcs("video", "inspect", "turned.mp4", "--json").json
    assert (told["width"], told["height"]) == (48, 96)
    assert abs(told["rotation"]) == 90
    lain, stood = (read_clip(path).read([0], 32)[0] for path in (lying, tmp_path / "turned.mp4"))
    assert (torch.rot90(lain, 1, (1, 2)) - stood).abs().mean() < 0.03


def test_odd_sizes_are_read_and_written(pcs: Pcs, tmp_path: Path) -> None:
    odd = tiny_clips.write(tmp_path / "odd.avi", tiny_clips.frames(4, size=(51, 67)), codec="ffv1", pixelformat="bgr0")
    told = pcs("video", "inspect", odd, "--json").json
    assert (told["width"], told["height"]) == (67, 51)
    save_clip(torch.rand(3, 3, 51, 67), tmp_path / "made.mp4", 8)
    made = read_clip(tmp_path / "made.mp4")
    assert (made.width, made.height) == (68, 52)


def test_cuts_are_warned_of_and_the_longest_shot_is_taken(pcs: Pcs, tmp_path: Path) -> None:
    shots = [tiny_clips.frames(6, seed=1), 255 - tiny_clips.frames(12, seed=2)]
    path = tiny_clips.write(tmp_path / "cut.mp4", np.concatenate(shots))
    typed = pcs("video", "inspect", path, "--json")
    assert typed.json["cuts"] == [pytest.approx(0.75)]
    assert "1 cut" in typed.err
    assert min(read_clip(path).choose(8)) >= 6


def test_sound_is_kept_out(pcs: Pcs, clip: Path, tmp_path: Path) -> None:
    _ffmpeg("-i", clip, "-f", "lavfi", "-i", "sine=d=1", "-c:v", "copy", "-shortest", tmp_path / "loud.mp4")
    assert pcs("video", "inspect", "loud.mp4", "--json").json["sound"]
    assert torch.equal(read_clip(tmp_path / "loud.mp4").read([0, 2], 32), read_clip(clip).read([0, 2], 32))


def test_a_long_large_video_is_looked_at_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.mp4"
    _ffmpeg("-f", "lavfi", "-i", "testsrc=s=1280x720:r=10:d=5", path)
    monkeypatch.setattr(clips, "LOOK_SECONDS", 2.0)
    clip = read_clip(path)
    assert clip.seconds == pytest.approx(5, abs=0.2)
    assert clip.is_cut_short
    assert clip.small.nbytes < 21 * 64 * 64 * 3
    assert any("only its first 2 s" in line for line in clips.remarks(clip))


@pytest.mark.slow
def test_ten_minutes_of_4k_take_little_memory(pcs: Pcs, tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    _ffmpeg("-f", "lavfi", "-i", "testsrc=s=3840x2160:r=1:d=600", "-preset", "ultrafast", path)
    code = (
        "import re, resource, sys; from pathlib import Path; from modalities.video.clips import read_clip;"
        "clip = read_clip(Path(sys.argv[1])); clip.read(clip.choose(8), 64);"
        # Linux counts what the process that started this one held as its ru_maxrss.
        "own = re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1];"
        "print(int(own) // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    own, decoder = map(int, done.stdout.split())
    assert own < 700, "megabytes, torch among them"
    assert decoder < 1500, "megabytes: a few frames of 25, however long the video is"


def test_a_file_with_sound_alone(pcs: Pcs, tmp_path: Path) -> None:
    _ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "song.mp4")
    _one_line(pcs("video", "inspect", "song.mp4"), "song.mp4", "is not a video")


def test_without_ffmpeg(pcs: Pcs, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    typed = pcs("video", "inspect", clip)
    _one_line(typed, "ffmpeg", "IMAGEIO_FFMPEG_EXE")


# -- what is given -------------------------------------------------------------------------------------------


def test_words_that_are_missing(pcs: Pcs, clip: Path, photos: Path) -> None:
    _one_line(pcs("video", "customize"), "--photos", "--clip")
    _one_line(pcs("video", "customize", "--photos", photos), "--noun")
    _one_line(pcs("video", "customize", "--clip", clip), "--prompt")
    _one_line(pcs("video", "customize", "--clip", clip, "--prompt", "a {} jumping"), "what moves in braces")
    _one_line(pcs("video", "customize", "--clip", clip, "--prompt", "a", "--prompt", "b"), "2 given for 1 clips")


def test_a_base_of_pictures_is_refused(pcs: Pcs, clip: Path) -> None:
    typed = pcs("video", "customize", "--clip", clip, "--prompt", "a dog running", "--base", "mini")
    _one_line(typed, "mini", "pictures", "mini-video")


# -- runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(siblings: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder with a run of motion, one of appearance, one of pictures, all tiny."""
    from pcs_cli import app
    from pcs_cli.console import console

    folder = tmp_path_factory.mktemp("made")
    encoders = request.getfixturevalue("encoders")
    clip, photos = tiny_clips.write(folder / "right.mp4", tiny_clips.frames()), tiny.photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PCS_CACHE", str(folder / "cache"))
        patched.setenv("PCS_SUBJECT_ENCODER", encoders[0])
        patched.setenv("PCS_CLIP", encoders[1])
        patched.chdir(folder)
        video = ["video", "customize", "--base", siblings[1], *TINY, "--set", PHASES, "--quiet"]
        image = ["train", "image", photos, "--noun", "dog", "--base", siblings[0], "--quiet"]
        image += ["--set", "train.steps=2", "--set", "sample.steps=1", "--set", "validation.images=1"]
        image += ["--set", "components.prior_preservation=null", "--set", 'validation.prompts=["a {}"]']
        for words in (
            [*video, "--clip", clip, "--prompt", "a {cat} running", "--out", "motion"],
            [*video, "--photos", photos, "--noun", "dog", "--out", "appearance"],
            [*image, "--out", "image"],
        ):
            patched.setattr("sys.argv", ["pcs", *map(str, words)])
            console.setup()
            assert app.run() == 0, words
    return folder


def test_a_run_of_motion_writes_motion_alone_and_clips_that_play(made: Path) -> None:
    run = made / "motion"
    assert (run / "motion.safetensors").is_file()
    assert not (run / "appearance.safetensors").exists()
    assert (made / "appearance" / "appearance.safetensors").is_file()
    assert not (made / "appearance" / "motion.safetensors").exists()
    about = json.loads((run / "run.json").read_text())
    for name in about["previews"]:
        assert len(read_clip(run / name).times) >= 2
    said = subprocess.run([clips._executable(), "-i", run / "previews" / "0-0.mp4"], capture_output=True, check=False)
    assert b"h264" in said.stderr
    assert b"yuv420p" in said.stderr
    assert (run / "report.html").stat().st_size > 10_000


def test_pcs_inspect_reads_a_run_of_clips_and_its_loras(pcs: Pcs, made: Path) -> None:
    assert pcs("inspect", made / "motion", "--json").json["state"] == "finished"
    told = pcs("inspect", made / "motion" / "motion.safetensors", "--json").json
    assert (told["kind"], told["rank"]) == ("LoRA", "2")


def test_an_image_lora_works_by_name_in_the_video_net(pcs: Pcs, made: Path) -> None:
    own = pcs("video", "generate", made / "motion", "a dog running", "--out", "own", "--json").json
    typed = pcs(
        "video", "generate", made / "motion", "a {} running", "--with", f"{made / 'image'}:3", "--out", "with", "--json"
    )
    assert typed.code == 0, typed.err
    lora = load_file(made / "image" / "portable" / "lora-diffusers.safetensors")
    count = sum("lora_A" in key for key in lora)
    assert count >= 8
    assert f"{count}/{count} modules matched" in typed.json["matched"][0]
    assert f"{count}/{count} modules matched" in typed.err
    assert Path(typed.json["clips"][0]).read_bytes() != Path(own["clips"][0]).read_bytes()


def test_with_weight_zero_nothing_changes_and_appearance_joins_motion(pcs: Pcs, made: Path) -> None:
    clips_of = []
    for number, beside in enumerate(([], ["--with", f"{made / 'appearance'}:0"], ["--with", made / "appearance"])):
        words = ["video", "generate", made / "motion", "a dog running", *beside, "--out", f"o{number}", "--json"]
        clips_of.append(Path(pcs(*words).json["clips"][0]).read_bytes())
    assert clips_of[0] == clips_of[1]
    assert clips_of[0] != clips_of[2]


def test_a_lora_of_another_base_is_refused_with_near_names(pcs: Pcs, made: Path, tmp_path: Path) -> None:
    foreign = {
        "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 32),
        "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.zeros(32, 2),
    }
    save_file(foreign, tmp_path / "foreign.safetensors")
    typed = pcs("video", "generate", made / "motion", "a dog", "--with", tmp_path / "foreign.safetensors")
    _one_line(typed, "foreign.safetensors", "0/1 modules matched", "attn1.to_q")
    wide = {
        name.replace("transformer.blocks.0", "unet.down_blocks.0.attentions.0.transformer_blocks.0"): value.repeat(1, 1)
        for name, value in foreign.items()
    }
    wide = {name: torch.zeros(64, 2) if "lora_B" in name else value for name, value in wide.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    typed = pcs("video", "generate", made / "motion", "a dog", "--with", tmp_path / "wide.safetensors")
    _one_line(typed, "wide.safetensors", "another base")


def test_what_is_no_lora_is_not_brought_to_another_run(pcs: Pcs, made: Path, tmp_path: Path) -> None:
    change = {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.beside.0.weight": torch.zeros(2, 64)}
    save_file(change, tmp_path / "motion.safetensors", {"pcs": json.dumps({"learned": "motion_adapter"})})
    typed = pcs("video", "generate", made / "motion", "a dog", "--with", tmp_path / "motion.safetensors")
    _one_line(typed, "motion.safetensors", "no LoRA", "motion_adapter", "its own run")


def test_what_of_a_run_does_not_fit_is_not_left_out_in_silence(pcs: Pcs, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "image", tmp_path / "words")
    (tmp_path / "words" / "portable" / "lora-diffusers.safetensors").unlink()
    word = {"<other>": torch.zeros(1, 32)}
    save_file(word, tmp_path / "words" / "portable" / "learned_embeds.safetensors")
    words = ("video", "generate", made / "motion", "a dog running", "--out", "o")
    _one_line(pcs(*words, "--with", tmp_path / "words"), "holds no LoRA that a video base could take")
    about = json.loads((tmp_path / "words" / "run.json").read_text())
    (tmp_path / "words" / "run.json").write_text(json.dumps(about | {"portable": ["learned_embeds.safetensors"]}))
    shutil.copytree(tmp_path / "words", tmp_path / "more")
    assert pcs(*words, "--with", tmp_path / "words").code == 0
    told = pcs(*words, "--with", tmp_path / "words", "--with", tmp_path / "more")
    _one_line(told, "more: its word <other> is that of another run here")


def test_runs_of_different_bases_are_not_mixed(pcs: Pcs, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "appearance", tmp_path / "other")
    about = json.loads((tmp_path / "other" / "run.json").read_text())
    (tmp_path / "other" / "run.json").write_text(json.dumps(about | {"base_fingerprint": "another"}))
    typed = pcs("video", "generate", made / "motion", "a dog running", "--with", tmp_path / "other")
    _one_line(typed, "one base")


def test_a_slot_without_a_subject_and_a_run_of_pictures(pcs: Pcs, made: Path) -> None:
    _one_line(pcs("video", "generate", made / "motion", "a {} running"), "no subject", "--with")
    _one_line(pcs("video", "generate", made / "image", "a {} running"), "run of pictures", "pcs generate")
    _one_line(pcs("video", "generate", made / "motion", "a", "--with", "nowhere:0.5"), "nowhere")
    _one_line(pcs("generate", made / "motion", "a {}"), "run of clips", "pcs video generate")
    _one_line(pcs("eval", made / "motion"), "run of clips", "pcs video eval")


def test_another_clip_does_not_go_on_with_a_run(pcs: Pcs, made: Path, siblings: tuple[Path, Path]) -> None:
    other = tiny_clips.write(Path("left.mp4"), tiny_clips.frames(step=(-3, 0)))
    words = ["video", "customize", "--base", siblings[1], *TINY, "--set", PHASES, "--prompt", "a {cat} running"]
    typed = pcs(*words, "--clip", other, "--out", made / "motion", "--resume")
    _one_line(typed, "the clips have changed", "left.mp4")
    again = pcs(*words, "--clip", made / "right.mp4", "--out", made / "motion", "--resume", "--json")
    assert again.json["steps"] == 2, again.err


def test_clips_of_the_subject_and_of_its_class_lie_side_by_side(pcs: Pcs, made: Path) -> None:
    run = made / "appearance"
    files = pcs("video", "generate", run, "a {} running", "a dog running", "--out", "both", "--json").json["clips"]
    assert len(set(files)) == 2
    assert all(Path(path).is_file() for path in files)


def test_the_noise_prior_and_the_seed_decide_the_bytes(pcs: Pcs, made: Path) -> None:
    def clip(*words: object) -> bytes:
        typed = pcs("video", "generate", made / "motion", "a dog running", "--out", "here", "--json", *words)
        return Path(typed.json["clips"][0]).read_bytes()

    plain = clip()
    assert clip() == plain
    assert clip("--noise-prior", 0.5) == plain, "as the recipe has it"
    assert clip("--noise-prior", 0) != plain
    assert clip("--seed", 1) != plain


def test_eval_compares_run_base_and_clip_and_gates_decide_the_exit_code(pcs: Pcs, made: Path) -> None:
    typed = pcs("video", "eval", made / "motion", "a dog running", "-n", 1, "--json", "--gate", "frame_consistency>=2")
    assert typed.code == 3
    scores = typed.json["scores"]
    assert typed.json["missed"] == ["frame_consistency>=2"]
    assert {"motion_fidelity", "speed_ratio", "dynamic_degree", "clip_t", "appearance_leak", "warp_error"} <= set(
        scores
    )
    assert scores["motion_fidelity"]["reference"] > 0.7
    assert scores["appearance_leak"]["base"] == 0
    assert pcs("video", "eval", made / "motion", "-n", 1, "--gate", "warp_error<=1").code == 0
    _one_line(pcs("video", "eval", made / "motion", "--gate", "warp_eror<=1"), "warp_error")


def test_a_clip_that_has_changed_is_not_compared_with(pcs: Pcs, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "motion", tmp_path / "motion")
    about = json.loads((tmp_path / "motion" / "run.json").read_text())
    about["clips"] = dict.fromkeys(about["clips"], "another digest")
    (tmp_path / "motion" / "run.json").write_text(json.dumps(about))
    typed = pcs("video", "eval", "motion", "a dog running", "-n", 1, "--json")
    assert typed.code == 0, typed.err
    assert "the learned clip is gone or has changed" in typed.err
    assert "motion_fidelity" not in typed.json["scores"]
