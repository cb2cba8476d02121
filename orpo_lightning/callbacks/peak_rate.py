"""How fast a device multiplies matrices at best."""

from __future__ import annotations

import functools
import time

import torch

_PRODUCTS = 5


@functools.cache
def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second that products of matrices reach.

    Args:
        device: the device.
        dtype: of the factors.
    """
    size = 1024 if device.type == "cpu" else 8192
    own = torch.Generator(device).manual_seed(0)  # the run's own random numbers stay what they are
    # ones would let some devices run faster than other numbers do
    left, right = (torch.rand(size, size, generator=own, device=device, dtype=dtype) for _ in range(2))

    def seconds() -> float:
        begun = _now(device)
        torch.mm(left, right)
        return _now(device) - begun

    # the best of several, because other work on the machine can only make one slower
    return 2 * size**3 / min(seconds() for _ in range(_PRODUCTS))


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
