"""The process of a trial: an ordinary command, which ends in an orderly way when the sweep that started it is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading

from filelock import FileLock

from orpo_lightning.__main__ import console
from orpo_lightning.sweep.trial_process import LOCK_VARIABLE


def main() -> None:
    """Run the command of ``sys.argv``, as the only process of its trial."""
    lock = os.environ.pop(LOCK_VARIABLE, None)
    if lock is None:  # another rank, which ends with the first
        console()
        return
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    with FileLock(lock):  # that of a sweep that was killed may still be saving
        console()


def _end_with_the_sweep() -> None:
    """The sweep holds the other end of the standard input, and says nothing."""
    # not sys.stdin: a thread that waits in it keeps an interpreter from ending
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
