"""Measures pcs against the floor and against the diffusers script, in one run on the same work.

`make bench` writes the tables into docs/benchmarks.md. The script rows need the examples of diffusers:
`make bench EXAMPLES=…/diffusers/examples`; without them they say `not run`.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from modalities.core import bases, recipe
from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.machine import Machine
from modalities.core.studio import Studio
from modalities.core.trainer import Trainer
from modalities.core.validation import Validation

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "docs" / "example-photos" / "mug"
NOUN = "mug"
BASE = ROOT / "modalities" / "mini" / "weights"
SCRIPT = Path(os.environ.get("EXAMPLES", "")) / "dreambooth" / "train_dreambooth_lora.py"
RATES = (1e-4, 1e-3, 4e-3)
SCRIPT_STEPS = 500
ROUNDS = 3
STEPS = 20
RANK = 4
LORA_ONLY = {
    "components": {
        "textual_inversion": None,
        "lora": {"rank": RANK, "layers": "attention", "text_encoder": 0},
        "prior_preservation": None,
    },
    "data": {"flip": False, "subject": "sks {noun}"},
    "train": {"schedule": "constant", "warmup": 0},
}


def studio(changes: dict[str, Any], cache: Path) -> Studio:
    """The default recipe on mini and the example photos, changed."""
    method = recipe.load("image/dreambooth_lora", changes)
    concept = Concept.from_folder(PHOTOS, noun=NOUN, subject=method.data.subject)
    backbone = bases.load(bases.resolve("mini"), choose("cpu"), offline=True)
    return Studio(backbone, concept, method, training=True, cache=Cache(cache))


def floor_step(unet: Any, batch: int) -> Any:
    """The least that a step can do: forward, backward and AdamW of the adapted UNet on ready tensors."""
    learned = [value for value in unet.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4)
    noisy, target = torch.randn(2, batch, 4, 16, 16)
    t, text = torch.randint(0, 1000, (batch,)), torch.randn(batch, 32, unet.config.cross_attention_dim)

    def step() -> None:
        loss = torch.nn.functional.mse_loss(unet(noisy, t, text, return_dict=False)[0], target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Any, times: int = STEPS) -> float:
    """Median milliseconds."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def script(flags: list[str], folder: Path) -> dict[str, Any]:
    """Run the diffusers script; return when it began, when each step ended, and when it was done."""
    times = folder / "times.json"
    common = [
        *("--pretrained_model_name_or_path", str(BASE), "--instance_data_dir", str(PHOTOS), "--resolution", "64"),
        *("--instance_prompt", f"a photo of sks {NOUN}", "--center_crop", "--gradient_accumulation_steps", "1"),
        *("--lr_scheduler", "constant", "--lr_warmup_steps", "0", "--rank", str(RANK), "--seed", "0"),
        *("--mixed_precision", "no", "--checkpointing_steps", "100000"),
        *("--output_dir", str(folder / "out"), "--logging_dir", str(folder / "logs")),
    ]
    words = [sys.executable, "-m", "tests.benchmarks.peer", str(SCRIPT), str(times), *common, *flags]
    launched = time.time()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the script failed:\n{done.stderr[-2000:]}")
    return json.loads(times.read_text()) | {"launched": launched}


def step_cost(folder: Path) -> list[str]:
    """Milliseconds of one step: the floor, pcs, and the script, in turn."""
    rows = [
        "| photos per step | floor ms | pcs ms | script ms | pcs / floor | script / pcs |",
        "|---|---|---|---|---|---|",
    ]
    for batch in (1, 5):
        changes = json.loads(json.dumps(LORA_ONLY))
        changes["train"]["batch"] = batch
        ours = studio(changes, folder / "cache")
        trainer = Trainer(ours)
        trainer.advance()
        bare = studio(changes, folder / "cache")
        bare.set_learning(["lora"])
        floor = floor_step(bare.backbone.denoiser, batch)
        floor()
        measured: dict[str, list[float]] = {"floor": [], "pcs": [], "script": []}
        for _ in range(ROUNDS):
            measured["floor"].append(timed(floor))
            measured["pcs"].append(timed(trainer.advance))
            if SCRIPT.is_file():
                ended = script(["--train_batch_size", str(batch), "--max_train_steps", "25"], folder)["steps"]
                spans = [1000 * (b - a) for a, b in itertools.pairwise(ended[4:])]
                measured["script"].append(statistics.median(spans))
        floor_ms, ours_ms = (statistics.median(measured[name]) for name in ("floor", "pcs"))
        theirs = statistics.median(measured["script"]) if measured["script"] else None
        rows.append(
            f"| {batch} | {floor_ms:.1f} | {ours_ms:.1f} | {f'{theirs:.1f}' if theirs else 'not run'} "
            f"| {ours_ms / floor_ms:.2f} | {f'{theirs / ours_ms:.2f}' if theirs else 'not run'} |"
        )
    return rows


def quality_of(lora: Path, folder: Path) -> tuple[float, float]:
    """Validation loss and subject similarity of a LoRA file, by the scores that pcs trains with."""
    plain = {"textual_inversion": None, "lora": None, "prior_preservation": None}
    judged = studio({"components": plain, "data": {"subject": "sks {noun}"}}, folder / "cache")
    machine = Machine(choose("cpu"), Cache(folder / "cache"), offline=True)
    validation = Validation(judged, *machine.encoders())
    judged.backbone.pipeline().load_lora_weights(str(lora.parent), weight_name=lora.name)
    judged.backbone.forget_text()
    look, _ = validation.look(1)
    return look.loss, look.subject


def time_to_quality(folder: Path) -> list[str]:
    """Wall seconds from the command to what the script reaches with the best of three learning rates."""
    looks = our_looks(folder)
    rows = ["| | seconds | validation loss | subject similarity |", "|---|---|---|---|"]
    rows += [f"| pcs, step {step} | {at:.1f} | {loss:.4f} | {subject:.3f} |" for step, at, loss, subject in looks]
    verdicts: list[str] = []
    for photos, why in ((1, "its README's"), (recipe.load("image/dreambooth_lora").train.batch, "that of pcs")):
        if not SCRIPT.is_file():
            continue
        reached = [script_quality(photos, rate, folder) for rate in RATES]
        rows += [
            f"| script, batch {photos}, learning rate {rate:g} | {seconds:.1f} | {loss:.4f} | {subject:.3f} |"
            for subject, loss, seconds, rate in reached
        ]
        subject, loss, seconds, rate = max(reached)
        alike = next((look[1] for look in looks if look[3] >= subject), None)
        both = next((look[1] for look in looks if look[3] >= subject and look[2] <= loss), None)
        verdicts.append(
            f"- Batch {photos} ({why}), best at {rate:g}: the similarity is reached {_sooner(seconds, alike)}, "
            f"similarity and loss {_sooner(seconds, both)}."
        )
    return [*rows, "", *verdicts]


def _sooner(seconds: float, at: float | None) -> str:
    return f"after {at:.1f} s, {seconds / at:.2f} times as fast" if at else "never by pcs"


def script_quality(photos: int, learning_rate: float, folder: Path) -> tuple[float, float, float, float]:
    """Run the script; return subject similarity, validation loss, wall seconds and the learning rate."""
    place = folder / f"script-{photos}-{learning_rate}"
    place.mkdir()
    flags = ["--train_batch_size", str(photos), "--max_train_steps", str(SCRIPT_STEPS)]
    run = script([*flags, "--learning_rate", str(learning_rate)], place)
    loss, subject = quality_of(place / "out" / "pytorch_lora_weights.safetensors", folder)
    return subject, loss, run["ended"] - run["launched"], learning_rate


def our_looks(folder: Path) -> list[tuple[int, float, float, float]]:
    """Run the command; return step, wall seconds since the command, loss and similarity of each look."""
    words = [sys.executable, "-m", "pcs_cli", "train", "image", str(PHOTOS), "--noun", NOUN, "--offline"]
    words += ["--out", str(folder / "ours")]
    launched = time.time()
    environment = os.environ | {"PCS_CACHE": str(folder / "fresh-cache")}
    with subprocess.Popen(
        words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as run:
        assert run.stderr
        seen = {
            int(line.split()[1].rstrip(":")): time.time() - launched for line in run.stderr if line.startswith("step ")
        }
    found = {line["step"]: line for line in Artifact(folder / "ours").metrics() if "balance" in line}
    return [(step, seen[step], found[step]["loss"], found[step]["subject"]) for step in seen if step]


def main() -> None:
    edition = json.loads((BASE / "build.json").read_text())["edition"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lines = [
            "# Benchmarks",
            "",
            "Made by `make bench`" + (" with `EXAMPLES` at diffusers' examples." if SCRIPT.is_file() else "."),
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
            f"Python {platform.python_version()}. All rows of a table were measured in turn in one run.",
            "",
            "Beside their subjects stand the tables of [all methods](personalization.md), [clips](video.md),",
            "[shapes](3d.md), [protection](protect.md) and [scores](benchmarks-eval.md).",
            "",
            "## What a training step costs",
            f"`mini`, edition {edition}, LoRA of rank {RANK} on attention, 64x64, median of {ROUNDS} rounds of {STEPS}",
            "steps. The floor is forward, backward and AdamW of the same adapted UNet on ready tensors.",
            "",
            *step_cost(folder),
            "",
            "## Time to the same quality",
            "Example photos, wall time from the command. pcs is `pcs train image` with its defaults, start-up",
            f"and looks included. The script is `train_dreambooth_lora.py` with the {SCRIPT_STEPS} steps of its README",
            "at three learning rates, without its validation pictures; the most similar one counts. It neither",
            "preserves the class nor looks at what it learns.",
            "",
            *time_to_quality(folder),
        ]
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
