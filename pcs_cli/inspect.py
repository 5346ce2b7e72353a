"""`pcs inspect`: what a run folder, a LoRA file, an embedding or a base is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pcs_cli.console import console
from pcs_cli.options import Json


def inspect(
    path: Annotated[Path, typer.Argument(help="A run folder, a diffusers folder, or a .safetensors file.")],
    json: Json = False,
) -> None:
    """Say what a file or folder is made of: a run, a base, a LoRA of any tool, an embedding."""
    console.setup(json=json)
    from modalities.core.errors import PcsError

    if path.is_dir():
        facts = _run(path) if (path / "run.json").is_file() else _base(path)
    elif path.suffix == ".safetensors":
        facts = _tensors(path)
    elif path.is_file():
        raise PcsError(f"{path}: only .safetensors files are opened; pickled weights can run code.")
    else:
        raise PcsError(f"{path}: there is no such file or folder.")
    width = max(len(key) for key in facts)
    console.result(facts, [f"{key.replace('_', ' ').ljust(width)}  {value}" for key, value in facts.items()])


def _run(path: Path) -> dict[str, Any]:
    from modalities.core.artifact import Artifact

    run = Artifact(path)
    about, recipe = run.about(), run.recipe()
    facts: dict[str, Any] = {
        "kind": "run",
        "state": about["state"],
        "recipe": recipe.title,
        "base": recipe.backbone,
        "subject": ", ".join(one["phrase"] for one in run.subjects()),
        "photos": sum(len(one["photos"]) for one in run.subjects()),
        "components": ", ".join(part.name for part in recipe.components),
    }
    if about["state"] == "finished":
        # Merged runs took no steps, and scenes keep their last.
        facts |= {name: about[name] for name in ("steps", "kept_step", "seconds") if name in about}
        kept = about.get("kept") or {}
        scores = [name for name in ("subject", "text", "drift") if name in kept]
        facts |= {f"{name}_score": round(kept[name], 4) for name in scores}
        facts |= {"portable": ", ".join(about["portable"])} if "portable" in about else {}
    return facts


def _base(path: Path) -> dict[str, Any]:
    from modalities.core import bases
    from modalities.core.errors import PcsError

    found = bases.problems(path)
    if found:
        raise PcsError(found[0])
    # In full: a folder may have the name of a base that is listed.
    base = bases.resolve(str(path.resolve()))
    return {
        "kind": "base",
        "family": bases.family(base, offline=True).__name__,
        "fingerprint": bases.fingerprint(base),
    }


def _tensors(path: Path) -> dict[str, Any]:
    from modalities.core.tensor_files import describe

    return describe(path)
