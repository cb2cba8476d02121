"""How long it takes from the command to the first batch of the training, with everything in the caches.

    python benchmarks/start_up.py

starts the quickstart several times, up to its first batch: as it is, with the validation and the answers that come
before the training, and without them. The goal is 15 seconds; without them more is an error. The numbers that it last
printed are in docs/speed.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from yardstick.environment import conditions
from yardstick.quickstart import fit_quickstart

SIGN = "the first training batch is there"
ALONE = "without validation and answers before"
WAYS = {
    "as it is": [],
    ALONE: ["--trainer.num_sanity_val_steps=0", "--summary.prompts=0"],
}


class FirstBatch(Callback):
    """Tells of the first training batch, and ends the process there."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Tell, and end."""
        print(SIGN, flush=True)
        os._exit(0)


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=15, help="the goal, s; an error where it is missed without them")
    arguments = parser.parse_args()
    repeats, medians = arguments.repeats, {}
    for name, options in WAYS.items():
        _seconds(options)  # fills the caches
        taken = [_seconds(options) for _ in range(repeats)]
        medians[name] = statistics.median(taken)
        of_all = f"median of {repeats}, {min(taken):.1f} to {max(taken):.1f}"
        goal = f"{arguments.limit:g} s: {'met' if medians[name] <= arguments.limit else 'missed'}"
        print(f"{name}: {medians[name]:.1f} s ({of_all}; {goal})", flush=True)
    print(conditions())
    if medians[ALONE] > arguments.limit:
        sys.exit(f"{ALONE}: more than {arguments.limit} s")


def _seconds(options: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        printed = fit_quickstart(["--trainer.callbacks+=start_up.FirstBatch", *options], f"{folder}/run")
        seconds = time.perf_counter() - start
    if SIGN not in printed:
        sys.exit(f"the run ended before its first batch:\n{printed}")
    return seconds


if __name__ == "__main__":
    main()
