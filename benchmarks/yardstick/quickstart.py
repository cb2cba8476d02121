"""Runs of the command line, as a user starts them, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from yardstick.environment import ROOT


def fit_quickstart(options: Sequence[str], folder: str | Path) -> str:
    """What a fit of the quickstart printed; one that ends with an error ends the command.

    Args:
        options: of the command line, over the quickstart's; a class may be one of the benchmarks'.
        folder: of the run.
    """
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "orpo_lightning", "fit", "--config", "quickstart", *options),
            f"--trainer.default_root_dir={folder}",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ended.returncode:
        sys.exit(f"{' '.join(options)}:\n{ended.stdout}")
    return ended.stdout
