"""How long the help of the command takes, against `import torch`: it may take 1.5 times as long at most.

    python benchmarks/help.py

runs each in a process of its own, in turn, and prints the medians.

That command printed, on 2026-11-24 at commit bfece86, 2 cores of an x86_64 machine shared with other work:

    orpo-lightning --help   0.134 s (median of 11, 0.104 to 0.228)
    import torch            6.606 s (median of 11, 4.784 to 9.464)
    ratio: 0.020 (promised: 1.5 at most)
    2 cores, x86_64, python 3.11.7
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

_COMMANDS = {
    "orpo-lightning --help": ["-m", "orpo_lightning", "--help"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    """Print the medians, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    for command in _COMMANDS.values():
        _seconds(command)  # what is read from the disk for the first time counts for neither
    taken: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for _ in range(repeats):
        for name, command in _COMMANDS.items():
            taken[name].append(_seconds(command))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, seconds in taken.items():
        print(f"{name:<24}{medians[name]:.3f} s (median of {repeats}, {min(seconds):.3f} to {max(seconds):.3f})")
    help_time, torch_time = medians.values()
    print(f"ratio: {help_time / torch_time:.3f} (promised: 1.5 at most)")
    print(f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}")


def _seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
