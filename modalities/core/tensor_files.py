"""What a .safetensors file holds, told from its keys and shapes alone; no weights are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from modalities.core.errors import PcsError

# What LyCORIS calls the changes of a layer that are no LoRA.
LYCORIS = {"diff": "whole changes", "hada_w1_a": "LoHa", "lokr_w1": "LoKr", "lokr_w1_a": "LoKr"}
LORA_DOWN = re.compile(r"(lora_A(\.\w+)?|lora_down|lora\.down|lora_linear_layer\.down)\.weight$")


def describe(path: Path) -> dict[str, Any]:
    """Return kind, layout, ranks, alpha, parts, precision and size of a file of weights.

    Raises:
        PcsError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            keys = sorted(file.keys())
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
            dtypes = sorted({str(file.get_slice(key).get_dtype()) for key in keys})
            alphas = sorted({float(file.get_tensor(key)) for key in keys if key.endswith(".alpha")})
            about = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise PcsError(f"{path}: is damaged or not a safetensors file ({error}).") from error
    facts: dict[str, Any] = _kind(keys, shapes, alphas)
    facts |= {
        "tensors": len(keys),
        "precision": ", ".join(dtypes),
        "megabytes": round(path.stat().st_size / 1e6, 2),
    }
    facts |= {f"about_{key}": value[:80] for key, value in sorted(about.items()) if key != "format"}
    return facts


def _kind(keys: list[str], shapes: dict[str, tuple[int, ...]], alphas: list[float]) -> dict[str, Any]:
    downs = [key for key in keys if LORA_DOWN.search(key)]
    if downs:
        ranks = sorted({shapes[key][0] for key in downs})
        return {
            "kind": "DoRA" if any(key.endswith((".dora_scale", "lora_magnitude_vector")) for key in keys) else "LoRA",
            "layout": _layout(keys[0]),
            "rank": ", ".join(map(str, ranks)),
            "alpha": ", ".join(f"{alpha:g}" for alpha in alphas) or "not written (equal to the rank)",
            "parts": ", ".join(_parts(downs)),
            "layers": len(downs),
        }
    changes = [key for key in keys if key.rpartition(".")[2] in LYCORIS]
    if changes:
        kinds = dict.fromkeys(LYCORIS[key.rpartition(".")[2]] for key in changes)
        return {"kind": f"LyCORIS, {', '.join(kinds)}", "layout": _layout(changes[0]), "layers": len(changes)}
    if keys and all(len(shapes[key]) <= 2 for key in keys) and len(keys) <= 4 and "." not in keys[0]:
        tokens = [f"{key} ({shapes[key][0] if len(shapes[key]) == 2 else 1} x {shapes[key][-1]})" for key in keys]
        return {"kind": "token embedding", "tokens": ", ".join(tokens)}
    return {"kind": "weights", "parts": ", ".join(sorted({key.partition(".")[0] for key in keys})[:8])}


def _layout(key: str) -> str:
    if key.startswith(("lora_unet_", "lora_te")):
        return "kohya"
    if key.startswith(("diffusion_model.", "text_encoders.")):
        return "comfyui"
    if key.startswith(("unet.", "transformer.", "text_encoder")):
        return "diffusers"
    return "pcs run weights" if key.startswith("lora.") else "unknown"


def _parts(downs: list[str]) -> list[str]:
    """Which networks the layers belong to, each with its number of layers."""
    counts: dict[str, int] = {}
    for key in downs:
        inner = key.removeprefix("lora.")
        found = re.match(
            r"lora_(unet|te\d?)_|(diffusion_model|text_encoders|unet|transformer|text_encoder(?:_\d)?)\.",
            inner,
        )
        part = (found.group(1) or found.group(2)) if found else "other"
        counts[part] = counts.get(part, 0) + 1
    return [f"{part} ({count})" for part, count in sorted(counts.items())]
