"""The parent's end of a worker: a process that trains, and stops at its gate after each step."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from yardstick.environment import ROOT
from yardstick.job import Job

_LAST_LINES = 15
_PATIENCE_S = 60


class WorkerEndedError(Exception):
    """A worker ended before it was told to."""


class WorkerKilledError(WorkerEndedError):
    """A worker was killed: what the system does where there is no memory left."""


class Worker:
    """A process that trains, from its first gate on.

    Args:
        side: ``ours`` or ``trl``.
        job: what it trains.
        folder: for the job and for what the process prints.
        threads: of torch.
        python: its interpreter.
    """

    def __init__(self, side: str, job: Job, folder: Path, threads: int, python: Path | None = None) -> None:
        self.side = side
        self.log = folder / f"{side}.log"
        job.write(folder / f"{side}.json")
        # the environment of TRL has none of our package, and need not
        paths = [ROOT / "benchmarks", *([ROOT] if side == "ours" else [])]
        command = [str(python or sys.executable), "-m", f"yardstick.train_{side}", str(folder / f"{side}.json")]
        environment = {
            "CUDA_VISIBLE_DEVICES": "0",  # of several devices one
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        with self.log.open("w", encoding="utf-8") as log:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def ready(self) -> dict[str, Any]:
        """Wait until it stands before its first step."""
        return self._hear()

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Have it do something, and wait for what it reports.

        Args:
            do: ``step``, ``count`` (a step whose operations are counted), or ``rate``.
            details: the arguments.
        """
        self._say(do, **details)
        return self._hear()

    def _say(self, do: str, **details: Any) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # why it ended is told where its answer is missing
            print(json.dumps({"do": do, **details}), file=self.process.stdin, flush=True)

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        code = self.process.wait()
        killed = code == -signal.SIGKILL
        kind, reason = (WorkerKilledError, " (killed: was there enough memory?)") if killed else (WorkerEndedError, "")
        said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        raise kind(f"{self.side} ended with {code}{reason}; the end of {self.log}:\n" + "\n".join(said))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._say("stop")
        try:
            self.process.wait(_PATIENCE_S if kind is None else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
