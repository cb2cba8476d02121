"""What a worker gets of the machine, where several train at once."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path

THREADS, GPUS = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"


def share_of_worker(worker: int, workers: int, environment: Mapping[str, str], cores: int, gpus: int) -> dict[str, str]:
    """What a worker's processes get in their environment besides the user's own.

    Args:
        worker: from 0 on.
        workers: how many there are.
        environment: the user's: a number of threads in it stays, and so do the GPUs where there are fewer than workers.
        cores: of the processor.
        gpus: of the machine; those that the user's environment names count instead.

    Example:
        >>> share_of_worker(1, 2, {}, cores=8, gpus=4)
        {'OMP_NUM_THREADS': '4', 'CUDA_VISIBLE_DEVICES': '2,3'}
        >>> share_of_worker(1, 2, {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "7"}, cores=8, gpus=4)
        {}
    """
    if workers == 1:
        return {}
    share = {} if THREADS in environment else {THREADS: str(max(1, cores // workers))}
    named = environment.get(GPUS)
    devices = [str(number) for number in range(gpus)] if named is None else _visible(named)
    each = len(devices) // workers
    if each:
        share[GPUS] = ",".join(devices[worker * each : (worker + 1) * each])
    return share


def _visible(named: str) -> list[str]:
    """The devices of a list; CUDA sees none from the first on that is none, such as -1."""
    words = [word.strip() for word in named.split(",")]
    return list(itertools.takewhile(lambda word: word and not word.startswith("-"), words))


def cores() -> int:
    """Those that it may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus_of_machine(devices: Path = Path("/dev")) -> int:
    """NVIDIA's, by their files: to ask torch takes seconds. 0 where they have none, as outside of Linux."""
    return sum(1 for path in devices.glob("nvidia*") if path.name.removeprefix("nvidia").isdecimal())
