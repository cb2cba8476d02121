"""Copies from the host that nobody waits for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, while the host goes on."""
    if device.type == "cuda":
        # out of pageable memory the host would wait until all that was launched before has run
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
