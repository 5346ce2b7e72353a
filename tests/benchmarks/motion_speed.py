"""Seconds of one training step of MotionDirector's own function and of ours, on the same base, turn by turn.

`python -m tests.benchmarks.motion_speed CHECKOUT [--steps N]`, with CHECKOUT a clone of showlab/MotionDirector, runs
its `finetune_unet` as it is and its loop's lines around it, with its LoRA injected by its own code, beside our
trainer: the same base (mini-video), clip, prompt, layers, rank and batch, latents cached in both, the spatial path in
every step, AdamW with the same settings. Diffusers' UNet shows a single frame to its temporal layers, which
MotionDirector's copy does not; so it gets our bypass, which costs nothing.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import random
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional

from modalities.core import bases, recipe
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.studio import Studio
from modalities.core.temporal import bypassed
from modalities.video.clips import save_clip
from modalities.video.concept import with_clips
from modalities.video.customize import narrowed
from modalities.video.trainer import VideoTrainer
from tests import tiny_clips

RANK, RATE = 32, 5e-4
PROMPT = "a duck jumping on the grass"
WARM_UP = 3
# As the paper's recipe has it, but for the share of steps without the spatial path.
CHANGES: dict[str, Any] = {
    "components": {
        "appearance_absorber": {"rank": RANK, "left_out": 0.0},
        "motion_lora": {"rank": RANK, "layers": "temporal"},
    },
    "phases": [{"learn": {"appearance_absorber": RATE, "motion_lora": RATE}, "steps": 100_000}],
    "train": {"batch": 1, "schedule": "constant", "warmup": 0, "max_grad_norm": None},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ours = _ours(Path(folder))
        theirs, learned = _theirs(asked.checkout, ours)
        assert learned == sum(value.numel() for _, value in ours.studio.parameters()), "both must learn as much"
        spent = _timed({"MotionDirector": theirs, "pcs": ours.advance}, asked.steps)
    sys.stdout.write(_table(spent, learned))


def _ours(folder: Path) -> VideoTrainer:
    clip = folder / "clip.mp4"
    save_clip(tiny_clips.pixels(tiny_clips.frames()), clip, 8)
    chosen = narrowed(recipe.load("video/motiondirector", CHANGES), photos=False, clips=True)
    concept = with_clips(Concept("thing", "thing"), [clip], [PROMPT])
    return VideoTrainer(Studio(_base(), concept, chosen, training=True, cache=Cache(folder / "cache")))


def _base() -> Any:
    return bases.load(bases.resolve("mini-video"), choose("cpu"), offline=True)


def _theirs(checkout: Path, ours: VideoTrainer) -> tuple[Callable[[], None], int]:
    """One step of MotionDirector's loop, and how many numbers it learns."""
    lora, backbone = _module(checkout / "utils" / "lora.py"), _base()
    unet, text_encoder = backbone.denoiser, backbone.text_encoders["text_encoder"]
    optimizers: dict[str, torch.optim.Optimizer] = {}
    learned = 0
    for path, place in (("temporal", "TransformerTemporalModel"), ("spatial", "Transformer2DModel")):
        groups, _ = lora.inject_trainable_lora_extended(unet, {place}, r=RANK, dropout_p=0.1)
        values = [value for group in groups for value in group]
        learned += sum(value.numel() for value in values)
        optimizers[path] = torch.optim.AdamW(values, lr=RATE, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    posterior = ours.footage.posterior
    tokens = backbone.tokenizers["text_encoder"](PROMPT, padding="max_length", return_tensors="pt").input_ids
    batch = {"latents": (posterior.mean - posterior.shift) * posterior.scale, "prompt_ids": tokens}
    scope: dict[str, Any] = {
        "torch": torch,
        "F": functional,
        "random": random,
        "extract_lora_child_module": lora.extract_lora_child_module,
        "handle_trainable_modules": lambda *_, **__: None,
        "noise_scheduler": backbone.schedule._scheduler,
        "text_encoder": text_encoder,
        "unet": _still_aware(unet),
        **{name: None for name in ("trainable_modules", "unet_negation_all", "vae")},
        **{name: False for name in ("use_offset_noise", "rescale_schedule")},
        "cache_latents": True,
        "spatial_lora_num": 1,
        "random_hflip_img": -1,
        "global_step": 0,
        "offset_noise_strength": 0.1,
        "kwargs": {},
    }
    for name in ("sample_noise", "finetune_unet"):
        exec(_source(checkout / "MotionDirector_train.py", name), scope)

    def step() -> None:
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        spatial, temporal, _, _ = scope["finetune_unet"](batch, 0, mask_spatial_lora=False, mask_temporal_lora=False)
        spatial.backward(retain_graph=True)
        temporal.backward()
        # There the spatial step comes before the temporal pass back, which works as half-precision copies are kept for
        # that; in float32 it would look for the weights of before.
        optimizers["spatial"].step()
        optimizers["temporal"].step()
        scope["global_step"] += 1

    return step, learned


def _still_aware(unet: Any) -> Any:
    """The UNet, which passes its temporal layers by for single frames."""

    def ask(noisy: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor) -> Any:
        if noisy.shape[2] == 1:
            with bypassed(unet):
                return unet(noisy, t, encoder_hidden_states=encoder_hidden_states)
        return unet(noisy, t, encoder_hidden_states=encoder_hidden_states)

    return _Asked(unet, ask)


class _Asked(SimpleNamespace):
    """A network by another way of asking it; its modules are its own."""

    def __init__(self, unet: Any, ask: Callable[..., Any]) -> None:
        super().__init__(train=unet.train, named_modules=unet.named_modules, modules=unet.modules, ask=ask)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.ask(*given, **named)


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"motiondirector_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _source(path: Path, name: str) -> str:
    """A function's own lines; what it takes from the function around it is global here."""
    text = path.read_text(encoding="utf-8")
    found = next(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == name)
    lines = text.splitlines()[found.lineno - 1 : found.end_lineno]
    return textwrap.dedent("\n".join(lines)).replace("nonlocal ", "global ")


def _timed(sides: dict[str, Callable[[], Any]], steps: int) -> dict[str, list[float]]:
    """Processor seconds of each step; turn by turn, so that whatever else the machine does meets both alike."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(WARM_UP + steps):
        for name, step in sides.items():
            started = time.process_time()
            step()
            if number >= WARM_UP:
                spent[name].append(time.process_time() - started)
    return spent


def _table(spent: dict[str, list[float]], learned: int) -> str:
    lines = ["| one step | median | fastest tenth | slowest tenth |", "|---|---|---|---|"]
    for name, seconds in spent.items():
        low, high = (statistics.quantiles(seconds, n=10)[place] for place in (0, -1))
        lines.append(f"| {name} | {statistics.median(seconds):.3f} s | {low:.3f} s | {high:.3f} s |")
    ratio = statistics.median(spent["MotionDirector"]) / statistics.median(spent["pcs"])
    steps, sizes = len(spent["pcs"]), f"{learned:,} numbers learn in each"
    lines += ["", f"{ratio:.2f} times as fast; {steps} steps each, {sizes}, seconds of one processor."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
