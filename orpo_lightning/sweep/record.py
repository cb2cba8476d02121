"""What is known of a trial, in a file of its own that is written whole: whatever is killed, none of it is torn."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from orpo_lightning.run_folder import METRICS_FILE, RECORD_FILE
from orpo_lightning.summary.record import read_record
from orpo_lightning.whole_file import whole_file

TRIAL_FILE = "trial.json"
LOG_FILE = "trial.log"
_MARK = "orpo-lightning: "
_LONGEST_REASON = 300
State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep.

    Args:
        number: from 0 on; names its folder.
        parameters: their values by name.
        drawn: what Optuna drew for them; empty in a grid.
        state: ``running``, also of a sweep that was stopped; ``complete``; ``pruned`` by early termination; ``failed``.
        value: the best value of the metric; None where there is none.
        step: optimizer steps that were done.
        reason: why it failed; empty where it has not.
    """

    number: int
    parameters: Mapping[str, Any]
    drawn: Mapping[str, int | float] = field(default_factory=dict)
    state: State = "running"
    value: float | None = None
    step: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        """Of its folder.

        Example:
            >>> Trial(7, {}).name
            '007'
        """
        return f"{self.number:03}"


def read_trials(folder: Path) -> list[Trial]:
    """The trials of a sweep in their order.

    Args:
        folder: the one that holds a folder for each trial.

    Raises:
        ValueError: a file is of another kind.
    """
    trials = []
    for path in folder.glob(f"*/{TRIAL_FILE}"):
        try:
            trials.append(Trial(**json.loads(path.read_text(encoding="utf-8"))))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a trial; accepted: one that this program wrote") from error
    return sorted(trials, key=lambda trial: trial.number)


def write_trial(folder: Path, trial: Trial) -> None:
    """Write the record of a trial into its folder."""
    text = json.dumps(asdict(trial), indent=2, ensure_ascii=False, default=str)
    with whole_file(folder / TRIAL_FILE) as unfinished:
        unfinished.write_text(f"{text}\n", encoding="utf-8")


@dataclass(frozen=True)
class Progress:
    """How far a trial has come.

    Args:
        step: of the last row of measures; -1 where there is none.
        names: the measures that were logged.
        history: the finite values of the metric, in their order.
    """

    step: int = -1
    names: tuple[str, ...] = ()
    history: tuple[float, ...] = ()


def read_progress(folder: Path, metric: str | None) -> Progress:
    """The measures of a trial that may be running: a row that is being written is left for later.

    Args:
        folder: of the trial.
        metric: the measure to follow; None: none.
    """
    try:
        text = (folder / METRICS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return Progress()
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    if not rows:
        return Progress()
    values = [float(row[metric]) for row in rows if row.get(metric)] if metric else []
    names = tuple(name for name in rows[0] if "/" in name)
    return Progress(int(rows[-1]["step"]), names, tuple(value for value in values if math.isfinite(value)))


def is_over(folder: Path) -> bool:
    """Whether the fit of a trial has come to its end, also where nobody was there to see it."""
    record = read_record(folder / RECORD_FILE)
    return record is not None and record.status == "complete"


def total_steps(folder: Path) -> int | None:
    """Optimizer steps that the fit of a trial has planned; None as long as that is not known."""
    record = read_record(folder / RECORD_FILE)
    return record.total_steps if record else None


def reason_of_failure(folder: Path, code: int) -> str:
    """Why the fit of a trial failed, in one line.

    Args:
        folder: of the trial.
        code: of its process; negative: the signal that ended it.
    """
    if code == -9:
        return "killed by signal 9 (out of memory?)"
    if code < 0:
        return f"ended by signal {-code}"
    record = read_record(folder / RECORD_FILE)
    if record is not None and record.status == "failed" and record.reason:
        return record.reason
    return last_line(_text(folder / LOG_FILE)) or f"exit code {code}"


def last_line(log: str) -> str:
    """What a process said last: its own last message or, where it has none, its last line.

    Example:
        >>> last_line("orpo-lightning: --data.limit = 0 is out of range\\n(set X=1 to see where)\\n")
        '--data.limit = 0 is out of range'
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    ours = [line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)]
    return (ours or lines or [""])[-1][:_LONGEST_REASON]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
