"""Settings from the environment, `PCS_*`; they hold for a machine, recipes hold for a method."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from modalities.core.errors import PcsError

if TYPE_CHECKING:
    from modalities.core.machine import Machine


class Settings(BaseSettings):
    """What a machine's owner may set once."""

    model_config = SettingsConfigDict(env_prefix="PCS_")

    cache: Path = Path.home() / ".cache" / "pcs"
    """Encoded photos, class pictures and other results that can be made again."""
    runs: Path = Path("runs")
    """Where runs go when --out is not given."""
    device: str = "auto"
    """auto, cuda, mps or cpu."""
    offline: bool = False
    """Never use the network."""
    subject_encoder: str | None = None
    """Image encoder that scores likeness: a transformers folder or Hub id, e.g. facebook/dinov2-small."""
    clip: str | None = None
    """Text-image encoder that scores prompts: a transformers folder or Hub id, e.g. openai/clip-vit-base-patch32."""

    def machine(self) -> Machine:
        """What a run may use of this machine."""
        from modalities.core import device
        from modalities.core.cache import Cache
        from modalities.core.encoders import CLIP, SUBJECT_ENCODER
        from modalities.core.machine import Machine

        return Machine(
            device=device.choose(self.device),
            cache=Cache(self.cache),
            offline=self.offline,
            subject_encoder=self.subject_encoder or SUBJECT_ENCODER,
            clip=self.clip or CLIP,
        )


def load(*, offline: bool = False) -> Settings:
    """Read the settings; with `offline` also switch every library's network access off.

    Raises:
        PcsError: a variable has a value that it cannot have.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "PCS_" + str(first["loc"][0]).upper()
        raise PcsError(f"{name}={first['input']}: {first['msg'].lower()}.") from None
    if offline or settings.offline:
        settings.offline = True
        for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
            os.environ[variable] = "1"
    return settings
