"""Memory and the rate of the machine, the same on both sides."""

from __future__ import annotations

import re
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

_SIZE = 2048
_STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """The most memory so far, bytes: of the allocator on CUDA, else of the whole process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if _STATUS.is_file():
        # not ru_maxrss: that of a child begins with the memory of its parent
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        assert found
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def spread(values: Sequence[float], how: str = ".2f") -> str:
    """Median and range, as the tables have them; of a single value, the value.

    Example:
        >>> spread([3.0, 1.0, 2.0], ".1f")
        '2.0 (1.0 to 3.0)'
        >>> spread([3.0], ".1f")
        '3.0'
    """
    if len(values) == 1:
        return format(values[0], how)
    middle, low, high = (format(value, how) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def synchronize() -> None:
    """Wait for the device, where there is one that works ahead."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_rate(seconds: float) -> float:
    """Operations per second of fp32 products of 2048 x 2048 matrices, held for some time."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(_SIZE, _SIZE, device=device) for _ in range(2))
    out = left @ right
    synchronize()
    products, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        torch.mm(left, right, out=out)
        synchronize()
        products += 1
    return products * 2 * _SIZE**3 / passed
