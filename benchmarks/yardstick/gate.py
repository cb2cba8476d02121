"""The gate between two optimizer steps of a trainer: it reports, sleeps, and goes on when the parent says so.

So the steps of two trainers alternate, each with the machine to itself, and the time of a step is that from one gate
to the next: data, forward, backward, clipping, optimizer and whatever else the trainer does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from counting import count_flops
from torch.utils.flop_counter import FlopCounterMode

from yardstick.measures import matmul_rate, peak_memory, synchronize

_FIRST_TO_END = Path("/proc/self/oom_score_adj")


class Gate:
    """A worker's end of the pipe: a JSON object a line in both directions."""

    def __init__(self) -> None:
        # whatever libraries print goes where their messages go
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        if _FIRST_TO_END.is_file():  # where memory runs out, and not whatever else runs on this machine
            _FIRST_TO_END.write_text("1000")
        self._counter: FlopCounterMode | None = None
        self._start = 0.0
        self._start_cpu = 0.0

    def open(self, **values: Any) -> bool:
        """Report that training begins, and wait.

        Args:
            values: what to tell the parent.

        Returns:
            Whether to go on.
        """
        self._tell(event="ready", **values)
        return self._wait()

    def end_step(self, **values: Any) -> bool:
        """Report an optimizer step, and wait.

        Args:
            values: what else to tell the parent of it.

        Returns:
            Whether to go on.
        """
        synchronize()
        seconds, cpu_seconds = time.perf_counter() - self._start, time.process_time() - self._start_cpu
        flops = None
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            flops, self._counter = self._counter.get_total_flops(), None
        measured = {"seconds": seconds, "cpu_seconds": cpu_seconds, "flops": flops, "peak_bytes": peak_memory()}
        self._tell(event="step", **measured, **values)
        return self._wait()

    @property
    def is_counting(self) -> bool:
        """Whether the operations of the step that begins are counted."""
        return self._counter is not None

    def _wait(self) -> bool:
        while request := json.loads(sys.stdin.readline() or "{}"):
            if request["do"] == "rate":
                self._tell(event="rate", rate=matmul_rate(request["seconds"]))
                continue
            if request["do"] == "stop":
                break
            if request["do"] == "count":
                self._counter = count_flops()
                self._counter.__enter__()
            self._start, self._start_cpu = time.perf_counter(), time.process_time()
            return True
        return False

    def _tell(self, **message: Any) -> None:
        print(json.dumps(message), file=self._out, flush=True)
