"""A trial that runs: its process, and what it has logged up to now."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from orpo_lightning.run_folder import METRICS_FILE
from orpo_lightning.sweep.record import LOG_FILE, Progress, Trial, read_progress

LOCK_VARIABLE = "ORPO_LIGHTNING_TRIAL_LOCK"
"""Names the file that is locked as long as the process of a trial lives."""
_PROGRAM = "orpo_lightning.trial"
_LOCK_FILE = ".trial.lock"


class TrialProcess:
    """A fit in a process of its own, whose output goes to a file in the folder of the trial.

    Args:
        trial: what is run.
        folder: of the trial.
        words: of the command line, from the verb on.
        worker: which of those that run at once, from 0 on.
        environment: what is for this worker alone.
    """

    def __init__(
        self, trial: Trial, folder: Path, words: Sequence[str], worker: int, environment: Mapping[str, str]
    ) -> None:
        self.trial = trial
        self.folder = folder
        self.worker = worker
        self.is_pruned = False
        self._seen: tuple[int, ...] = ()
        self._progress = Progress()
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG_FILE).open("ab") as log:
            self.log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM, *words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, LOCK_VARIABLE: str((folder / _LOCK_FILE).resolve())},
                start_new_session=True,  # Ctrl-C is for the sweep, which passes it on
            )

    @property
    def code(self) -> int | None:
        """Of the process that has ended; None as long as it runs."""
        return self._process.poll()

    def progress(self, metric: str | None, beside: Sequence[str] = ()) -> Progress:
        """What it has logged; read again only where that may have changed."""
        seen = _state_of(self.folder / METRICS_FILE)
        if seen != self._seen:
            self._progress = read_progress(self.folder, metric, beside)
            self._seen = seen
        return self._progress

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


def _state_of(path: Path) -> tuple[int, ...]:
    try:
        state = path.stat()
    except FileNotFoundError:
        return ()
    return state.st_ino, state.st_size, state.st_mtime_ns
