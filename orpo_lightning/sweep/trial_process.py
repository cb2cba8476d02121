"""A trial that runs: its process, and what it has logged up to now."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from orpo_lightning.sweep.child import LOCK_VARIABLE
from orpo_lightning.sweep.record import LOG_FILE, Progress, Trial, read_progress

_LOCK_FILE = ".trial.lock"


class TrialProcess:
    """A fit in a process of its own, whose output goes to a file in the folder of the trial.

    Args:
        trial: what is run.
        folder: of the trial.
        words: of the command line, from the verb on.
    """

    def __init__(self, trial: Trial, folder: Path, words: Sequence[str]) -> None:
        self.trial = trial
        self.folder = folder
        self.is_pruned = False
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG_FILE).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orpo_lightning.sweep.child", *words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, LOCK_VARIABLE: str((folder / _LOCK_FILE).resolve())},
                start_new_session=True,  # Ctrl-C is for the sweep, which passes it on
            )

    @property
    def code(self) -> int | None:
        """Of the process that has ended; None as long as it runs."""
        return self._process.poll()

    def progress(self, metric: str | None) -> Progress:
        """What it has logged."""
        return read_progress(self.folder, metric)

    def prune(self) -> None:
        """Have it save and end, as one that is behind the others."""
        self.is_pruned = True
        self.stop()

    def stop(self) -> None:
        """Have it save and end."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end."""
        return self._process.wait()
