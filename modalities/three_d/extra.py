"""Whether nerfstudio, the extra `[3d]`, is there and works, and what its programs want of the system."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
import shutil

from modalities.core.errors import PcsError


def require_nerfstudio() -> None:
    """Check that nerfstudio can be imported.

    Raises:
        PcsError: it is not installed, or not with the torch that is.
    """
    if importlib.util.find_spec("nerfstudio") is None:
        raise PcsError('nerfstudio is not installed; get it with `pip install "pcs-cli[3d]"` (8 GB, 5 minutes).')
    try:
        importlib.import_module("nerfstudio.engine.trainer")
    except (ImportError, RuntimeError) as error:
        raise PcsError(
            f"nerfstudio cannot be imported ({str(error).splitlines()[0]}); torch and torchvision must be built for "
            'each other: `pip install --force-reinstall "pcs-cli[3d]"` in an environment of its own.'
        ) from error


def lacking() -> list[str]:
    """What of the system nerfstudio's programs will miss, a line each."""
    found = []
    if ctypes.util.find_library("usb-1.0") is None:
        found.append("ns-export needs the system library libusb-1.0 (Debian: apt install libusb-1.0-0).")
    if shutil.which("ffmpeg") is None:
        found.append("ns-render needs the program ffmpeg on the PATH (Debian: apt install ffmpeg).")
    return found
