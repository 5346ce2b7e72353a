"""Which base models there are by name, where they lie, and whether a folder is whole, before anything is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import yaml

import modalities
from modalities.core import plugins, recipe
from modalities.core.errors import PcsError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from modalities.core.backbone import Backbone
    from modalities.core.device import Device


@dataclass(frozen=True)
class Base:
    """An entry of `recipes/bases`, or a folder or Hub id given by the user.

    Attributes:
        name: what the user calls it.
        source: a local folder, or a Hub id.
        title: in words.
        local: whether `source` is a folder on this machine.
    """

    name: str
    source: str
    title: str
    local: bool

    def here(self) -> bool:
        """Whether it can be loaded without a network: a local folder, or in the Hub's cache."""
        if self.local:
            return True
        with contextlib.suppress(PcsError):
            return _hub_file(self.source, "model_index.json", offline=True).is_file()
        return False


def entries() -> dict[str, Path]:
    """Map the name of every known base to its YAML."""
    return {path.stem: path for path in sorted((recipe.folder() / "bases").glob("*.yaml"))}


def entry(name: str) -> dict[str, Any]:
    """Read the YAML of a known base."""
    return yaml.safe_load(entries()[name].read_text(encoding="utf-8"))


def resolve(name: str) -> Base:
    """Turn a name, a folder or a Hub id into a base.

    Raises:
        PcsError: it is none of these, or the folder is not a whole diffusers folder.
    """
    known = entries()
    if name in known:
        listed = entry(name)
        inside = Path(modalities.__file__).parents[1] / listed["source"]
        local = inside.is_dir()
        if listed["source"].startswith("modalities/") and not local:
            raise PcsError(f"{inside}: the weights of {name} are missing; install pcs-cli again, or build them.")
        return Base(name, str(inside) if local else listed["source"], listed["title"], local)
    folder = Path(name)
    if folder.is_dir():
        _require_whole(folder)
        return Base(name, name, folder.name, local=True)
    parts = name.split("/")
    if len(parts) == 2 and all(parts) and not name.startswith((".", "~")):
        return Base(name, name, name, local=False)
    raise PcsError(
        f'unknown base "{name}"; {did_you_mean(name, known)} Or give a diffusers folder or a Hub id (owner/name).'
    )


def problems(folder: Path) -> list[str]:
    """List what keeps a folder from being a whole, safely loadable diffusers pipeline; empty means it is one."""
    index = folder / "model_index.json"
    if not index.is_file():
        return [f"{folder}: has no model_index.json, so it is not a diffusers folder."]
    try:
        parts: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{index}: cannot be read ({error})."]
    found: list[str] = []
    for name, origin in parts.items():
        if name.startswith("_") or not isinstance(origin, list) or None in origin or name in OPTIONAL_PARTS:
            continue
        found += _part_problems(folder / name)
    return found


OPTIONAL_PARTS = frozenset({"safety_checker", "feature_extractor", "image_encoder"})


def _part_problems(part: Path) -> list[str]:
    if not part.is_dir():
        return [f"{part}: is missing, though model_index.json names it."]
    if "tokenizer" in part.name or "scheduler" in part.name:
        return [] if any(part.iterdir()) else [f"{part}: is empty."]
    if not (part / "config.json").is_file():
        return [f"{part}: has no config.json."]
    safe = [path for path in part.glob("*.safetensors") if path.stat().st_size > 0]
    if safe:
        return []
    if any(part.glob("*.bin")) or any(part.glob("*.ckpt")) or any(part.glob("*.pt")):
        return [
            f"{part}: has weights only as pickle, which can run code when opened; "
            "convert them to safetensors and try again."
        ]
    return [f"{part}: has no weights (*.safetensors)."]


def _require_whole(folder: Path) -> None:
    found = problems(folder)
    if found:
        raise PcsError(found[0] if len(found) == 1 else "\n".join(found))


def family(base: Base, *, offline: bool = False, modality: str | None = None) -> type[Backbone]:
    """Return the backbone class that serves a base, by the pipeline class in its `model_index.json`.

    modality: whose families are asked first.

    Raises:
        PcsError: no family serves it, or the Hub cannot be reached.
    """
    from modalities.core.backbone import Backbone

    wanted = _pipeline_class(base, offline)
    served: list[str] = []
    nearest = plugins.names("backbones", modality) if modality else {}
    for name in [*nearest, *plugins.names("backbones")]:
        face: type[Backbone] = plugins.load("backbones", name, Backbone)
        if wanted in face.pipelines:
            return face
        served += face.pipelines
    known = ", ".join(sorted(set(served)))
    raise PcsError(f"{base.name}: is a {wanted}, which no backbone serves yet; served: {known}.")


def load(base: Base, device: Device, *, offline: bool = False, modality: str | None = None) -> Backbone:
    """Load a base onto a device, weights frozen.

    modality: what it is to be used for, where families of several would serve it.

    Raises:
        PcsError: it is damaged, pickle-only, not served, or not to be had offline.
    """
    import diffusers

    from modalities.core.device import set_threads

    face = family(base, offline=offline, modality=modality)
    if base.local:
        _require_whole(Path(base.source))
    try:
        with quiet():
            pipeline = getattr(diffusers, _pipeline_class(base, offline)).from_pretrained(
                base.source,
                torch_dtype=device.dtype,
                use_safetensors=True,
                local_files_only=base.local or only_cached(offline),
                **face.load_options,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise PcsError(f"{base.name}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    denoiser: nn.Module = getattr(pipeline, face.denoiser_part)
    set_threads(device, sum(weight.numel() for weight in denoiser.parameters()))
    return face.open(pipeline, fingerprint(base, offline=offline), device.torch)


def trial(base: Base, device: Device, *, offline: bool = False) -> dict[str, Any]:
    """Load a base, let it encode, predict and decode once, and say what it is and how long that took."""
    import time

    import torch

    started = time.monotonic()
    backbone = load(base, device, offline=offline)
    loaded = time.monotonic()
    with torch.no_grad():
        pixels = torch.zeros(1, 3, backbone.resolution, backbone.resolution)
        latents = backbone.encode(pixels).mean
        t = backbone.schedule.timesteps(torch.tensor([0.5])).to(backbone.device)
        answer = backbone.predict(latents, t, backbone.conditioning(["a photo"]))
        picture = backbone.decode(latents)
    if not (answer.isfinite().all() and picture.isfinite().all()):
        raise PcsError(f"{base.name}: answers with NaN or infinity; its weights are damaged.")
    return {
        "base": base.name,
        "family": type(backbone).__name__,
        "resolution": backbone.resolution,
        **{
            f"{name}_parameters": f"{sum(weight.numel() for weight in module.parameters()):,}"
            for name, module in backbone.modules().items()
        },
        "fingerprint": backbone.fingerprint,
        "load_seconds": round(loaded - started, 2),
        "trial_seconds": round(time.monotonic() - loaded, 2),
    }


def fingerprint(base: Base, *, offline: bool = False) -> str:
    """Tell a base's weights from any others: a hash of each weight file's size, first and last megabyte."""
    index = _index(base, offline)
    digest = hashlib.sha256()
    for path in sorted(index.parent.glob("*/*.safetensors")):
        digest.update(f"{path.parent.name}/{path.name}:{path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1_000_000))
            file.seek(max(0, path.stat().st_size - 1_000_000))
            digest.update(file.read())
    return digest.hexdigest()[:32]


def _pipeline_class(base: Base, offline: bool) -> str:
    return json.loads(_index(base, offline).read_text(encoding="utf-8"))["_class_name"]


def _index(base: Base, offline: bool) -> Path:
    name = "model_index.json"
    return Path(base.source) / name if base.local else _hub_file(base.source, name, offline)


def _hub_file(repository: str, name: str, offline: bool) -> Path:
    from huggingface_hub import hf_hub_download

    cached_only = only_cached(offline)
    try:
        return Path(hf_hub_download(repository, name, local_files_only=cached_only))
    except Exception as error:
        why = "--offline forbids fetching it" if offline else "the Hub cannot be reached"
        how = f"is not in the local cache, and {why}" if cached_only else "cannot be fetched"
        raise PcsError(
            f"{repository}: {how} ({type(error).__name__}); download it first, or give a local diffusers folder."
        ) from error


def only_cached(offline: bool) -> bool:
    """Whether to look for the Hub's files in the local cache alone: as told, or because its name has no address here.

    The Hub's library would try to reach it for half a minute, and then look there as well.
    """
    from huggingface_hub import constants

    if offline:
        return True
    # A proxy looks names up itself.
    if getproxies():
        return False
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return True
    return False


@contextmanager
def quiet() -> Generator[None]:
    """Keep the libraries' progress bars, notices and warnings off the terminal while something loads."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = (diffusers_logging.get_verbosity(), transformers_logging.get_verbosity())
    for module in (diffusers_logging, transformers_logging):
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
