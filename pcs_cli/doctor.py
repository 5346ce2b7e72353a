"""`pcs doctor`: what is installed, what is missing, and what would go wrong."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from importlib import metadata
from pathlib import Path

from pcs_cli.console import console
from pcs_cli.options import Json

PACKAGES = (
    "pcs-cli",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "safetensors",
    "accelerate",
    "numba",
    "nerfstudio",
)
OPTIONAL = ("accelerate", "numba", "nerfstudio")


def doctor(json: Json = False) -> None:
    """Check the installation; exits with 1 when something would not work."""
    console.setup(json=json)
    import typer

    found = {name: _version(name) for name in PACKAGES}
    troubles = [*_missing(found), *_two_owners(), *_broken_torchvision()]
    facts: dict[str, str] = {
        "python": platform.python_version(),
        **{name: value or "-" for name, value in found.items()},
    }
    if not troubles:
        facts |= _machine()
        troubles += _embedded_base()
    lines = [f"{name:13}  {value}" for name, value in facts.items()]
    lines += [f"PROBLEM  {trouble}" for trouble in troubles] or ["everything is in place"]
    console.result({"facts": facts, "problems": troubles}, lines)
    if troubles:
        raise typer.Exit(1)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _missing(found: dict[str, str | None]) -> list[str]:
    return [
        f"{name} is not installed; run `pip install -U pcs-cli`."
        for name, version in found.items()
        if version is None and name not in OPTIONAL
    ]


def _two_owners() -> list[str]:
    """Another distribution may bring packages of our import names; the last one installed wins silently."""
    owners = metadata.packages_distributions()
    return [
        f'the import name "{name}" is claimed by {" and ".join(sorted(set(owners[name])))}; '
        "install pcs-cli into an environment of its own (`uv tool install pcs-cli`, `pipx install pcs-cli`)."
        for name in ("modalities", "protect", "pcs_cli")
        if len(set(owners.get(name, []))) > 1
    ]


def _broken_torchvision() -> list[str]:
    """A torchvision of another build than torch makes `import transformers` fail; none at all is fine."""
    if importlib.util.find_spec("torchvision") is None:
        return []
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        return [
            f"torchvision does not fit torch ({' '.join(str(error).split())[:80]}); "
            "`pip uninstall torchvision`, or install the pair of one build."
        ]
    return []


def _machine() -> dict[str, str]:
    from pcs_cli import settings

    chosen = settings.load()
    device = chosen.machine().device
    return {
        "device": f"{device.title}, {device.memory_gb:.1f} GB free",
        "cache": str(chosen.cache),
        "modalities": str(Path(sys.modules["modalities"].__file__ or "").parent),
    }


def _embedded_base() -> list[str]:
    from modalities.core import bases
    from modalities.core.errors import PcsError

    try:
        base = bases.resolve("mini")
    except PcsError as error:
        return [str(error)]
    return [] if base.local else [f"the embedded base is missing ({base.source}); reinstall pcs-cli."]
