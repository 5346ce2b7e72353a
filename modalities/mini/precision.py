"""In which precision the networks of the base compute while they train."""

import torch


def mixed_precision(device: torch.device) -> torch.autocast:
    """Matrices and convolutions in bfloat16 where `device` is made for it, else in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(device))


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 saves time; a CPU that only imitates it takes 26 times as long for a step of the autoencoder."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
