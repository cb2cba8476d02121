"""How much memory a process has taken at most."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
"""Of Linux."""


def peak_memory(device: torch.device) -> float | None:
    """The most memory that this process has taken, in 10^9 bytes; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if _STATUS.is_file():  # what the system tells of a child's usage begins with the memory of its parent
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"))
        if found:
            return int(found[1]) * 1024 / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
