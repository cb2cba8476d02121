"""How much memory each process of a run has on its device, by what the system says."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch


class Memory(NamedTuple):
    """Of a device, for one process.

    Args:
        total: bytes that there are.
        free: bytes of these that the process can still have; None: unknown, as of a GPU that the process does not use.
    """

    total: int
    free: int | None


class _Files(NamedTuple):
    """Where a group of processes says what it may have and what it has, and what of that it gives back when asked."""

    limit: str
    used: str
    cached: tuple[str, str]


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))


def memory_of(device: torch.device, processes: int, root: Path = Path("/")) -> Memory | None:
    """The memory of a device.

    That of a machine, or of the container or job that the process is in, is there for all processes of the run that are
    on it; the limit of a process for itself.

    Args:
        device: a GPU, or the CPU, whose memory is that of the machine.
        processes: of the run on this machine.
        root: where the files of the system are.

    Returns:
        None where there is no such device, or the system does not tell.
    """
    if device.type == "cuda" and torch.cuda.is_available():
        is_used = torch.cuda.is_initialized()
        total = torch.cuda.get_device_properties(device).total_memory
        if not is_used:  # to ask what is free takes memory there, which others may have
            return Memory(total, None)
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return Memory(total, free + unused)
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return None
    if not sys.platform.startswith("linux"):
        return Memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes, None)
    meminfo = root / "proc/meminfo"
    machine = _kilobytes(meminfo, "MemTotal"), _kilobytes(meminfo, "MemAvailable")
    total, free = (min(sizes) // processes for sizes in zip(machine, *_limits(root), strict=True))
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        total = min(total, limit)
        free = min(free, limit - _kilobytes(root / "proc/self/status", "VmSize"))
    return Memory(total, free)


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """What each group (cgroup) of this process may have, and what of it is free; of groups without a limit nothing."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        files, top = (_V1, root / "sys/fs/cgroup/memory") if controllers else (_V2, root / "sys/fs/cgroup")
        # in a container its own group may be the top one, whatever its path is called outside
        within = path.strip("/").split("/")
        for i in range(len(within) + 1):
            yield from _limit(top.joinpath(*within[:i]), files)


def _limit(group: Path, files: _Files) -> Iterator[tuple[int, int]]:
    try:
        limit, used, stat = (
            (group / name).read_text(encoding="ascii").strip() for name in (files.limit, files.used, "memory.stat")
        )
    except OSError:  # there is no such group here, or nothing counts its memory
        return
    if limit != "max":
        sizes = dict(line.split() for line in stat.splitlines())
        cached = sum(int(sizes.get(name, 0)) for name in files.cached)
        yield int(limit), int(limit) - (int(used) - cached)


def _kilobytes(file: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, f"{file} has no {name}"
    return int(found[1]) * 1024
