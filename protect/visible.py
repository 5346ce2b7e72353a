"""How much of a change is seen: LPIPS (Zhang et al., CVPR 2018), where its package and weights are on this machine.

https://arxiv.org/abs/1801.03924
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from modalities.core.metric import Absent
from modalities.core.metrics.lpips import network


class Perceptual:
    """The distance of pictures, as `pcs eval` measures it; nothing is fetched for it.

    Attributes:
        missing: why it cannot be measured here, in words; empty where it can.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._network: Any = None
        self.missing = ""
        try:
            self._network = _local(device)
        except Absent as reason:
            self.missing = str(reason)

    def distance(self, before: Float[Tensor, "3 h w"], after: Float[Tensor, "3 h w"]) -> float | None:
        """LPIPS of two pictures in levels of 0..255, to four places, 0 for the same; None where unmeasurable."""
        if self._network is None:
            return None
        one, other = (picture[None].to(self._device) / 127.5 - 1 for picture in (before, after))
        with torch.no_grad():
            return round(float(self._network(one, other)), 4)


def weights() -> Path:
    """Where torchvision keeps the AlexNet that the package stands on."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"


def _local(device: torch.device) -> Any:
    """The network, if nothing has to be fetched.

    Raises:
        Absent: it is not whole on this machine.
    """
    import importlib.util

    if importlib.util.find_spec("lpips") is not None and not weights().is_file():
        raise Absent(f"needs the weights {weights().name} of torchvision, which are not on this machine.")
    return network(device)
