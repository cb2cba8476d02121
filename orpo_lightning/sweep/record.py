"""What is known of a trial, in a file of its own that is written whole: whatever is killed, none of it is torn."""

from __future__ import annotations

import csv
import difflib
import json
import math
from collections.abc import Mapping, Sequence
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
_TRACEBACK = "Traceback (most recent call last):\n"
_VALIDATION = "val/"
_NO_MEASURES = ("step", "epoch")
State = Literal["running", "stopped", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep.

    Args:
        number: from 0 on; names its folder.
        parameters: their values by name.
        drawn: what Optuna drew for them; empty in a grid.
        state: ``running``, also of a sweep that was killed; ``stopped`` with its sweep, to go on with that;
            ``complete``; ``pruned`` by early termination; ``failed``.
        value: the last value of the metric; None where there is none, or where it is not finite.
        beside: the last values of the measures that are recorded beside it, by name.
        step: optimizer steps that were done.
        reason: why it failed; empty where it has not.
    """

    number: int
    parameters: Mapping[str, Any]
    drawn: Mapping[str, int | float] = field(default_factory=dict)
    state: State = "running"
    value: float | None = None
    beside: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    reason: str = ""

    @property
    def goes_on(self) -> bool:
        """Whether it has not come to an end."""
        return self.state in ("running", "stopped")

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
        value: the last one; None where there is none, or where it is not finite.
        beside: the last values of other measures, those that are finite.
    """

    step: int = -1
    names: tuple[str, ...] = ()
    history: tuple[float, ...] = ()
    value: float | None = None
    beside: Mapping[str, float] = field(default_factory=dict)

    def lacks(self, metric: str) -> bool:
        """Whether it is plain already that a measure is never logged: one of validation before the first step.

        Example:
            >>> Progress(0, ("val/loss",)).lacks("val/accuracy"), Progress(0, ("val/loss",)).lacks("train/loss")
            (True, False)
            >>> [Progress(2, ("train/loss", "val/loss")).lacks(name) for name in ("val_loss", "my/score")]
            [True, False]
        """
        if metric in self.names:
            return False
        if metric.startswith(_VALIDATION):
            return any(name.startswith(_VALIDATION) for name in self.names)
        # a module or callback of the user may log others later, under names of their own
        return self.step > 1 and bool(difflib.get_close_matches(metric, self.names, n=1))


def read_progress(folder: Path, metric: str | None, beside: Sequence[str] = ()) -> Progress:
    """The measures of a trial that may be running: a row that is being written is left for later.

    Args:
        folder: of the trial.
        metric: the measure to follow; None: none.
        beside: those of which the last value is wanted.
    """
    try:
        text = (folder / METRICS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return Progress()
    columns, *rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines())) or [[]]
    if not rows:
        return Progress()
    names = tuple(name for name in columns if name not in _NO_MEASURES)
    # a list for each row, as there may be tens of thousands of them
    place = columns.index(metric) if metric in columns else len(columns)
    values = _values(rows, place)
    history = tuple(value for value in values if math.isfinite(value))
    last = {name: _last(_values(rows, columns.index(name))) for name in beside if name in columns}
    known = {name: value for name, value in last.items() if value is not None}
    return Progress(int(rows[-1][columns.index("step")]), names, history, _last(values), known)


def _values(rows: Sequence[Sequence[str]], place: int) -> list[float]:
    return [float(row[place]) for row in rows if place < len(row) and row[place]]


def _last(values: Sequence[float]) -> float | None:
    return values[-1] if values and math.isfinite(values[-1]) else None


def is_over(folder: Path) -> bool:
    """Whether the fit of a trial has come to its end, also where nobody was there to see it."""
    record = read_record(folder / RECORD_FILE)
    return record is not None and record.status == "complete"


def total_steps(folder: Path) -> int | None:
    """Optimizer steps that the fit of a trial has planned; None as long as that is not known."""
    record = read_record(folder / RECORD_FILE)
    return record.total_steps if record else None


def reason_of_failure(folder: Path, code: int, log_start: int = 0) -> str:
    """Why the fit of a trial failed, in one line.

    Args:
        folder: of the trial.
        code: of its process; negative: the signal that ended it.
        log_start: where in its log this process began to print; before are those that it goes on from.
    """
    if code == -9:
        return "killed by signal 9 (out of memory?)"
    if code < 0:
        return f"ended by signal {-code}"
    record = read_record(folder / RECORD_FILE)
    if record is not None and record.status == "failed" and record.reason:
        return record.reason
    return last_line(_log(folder, log_start)) or f"exit code {code}"


def was_refused(folder: Path, log_start: int) -> bool:
    """Whether the program itself refused the settings, data or model of a trial, before its fit began.

    Args:
        folder: of the trial.
        log_start: where in its log this process began to print.
    """
    log = _log(folder, log_start)
    said = any(line.startswith(_MARK) for line in log.splitlines())
    record = read_record(folder / RECORD_FILE)
    has_begun = record is not None and record.status == "failed" and record.parameters is not None
    return said and _TRACEBACK not in log and not has_begun


def _log(folder: Path, start: int) -> str:
    with (folder / LOG_FILE).open("rb") as log:
        log.seek(start)
        return log.read().decode("utf-8", errors="replace")


def last_line(log: str) -> str:
    """What a process said last: its own last message or, where it has none, its last line; of a traceback the error.

    Example:
        >>> last_line("orpo-lightning: --data.limit = 0 is out of range\\n(set X=1 to see where)\\n")
        '--data.limit = 0 is out of range'
        >>> last_line("orpo-lightning: fine\\nTraceback (most recent call last):\\n  File x\\nKeyError: 'y'\\nbye\\n")
        "KeyError: 'y'"
    """
    before, traceback, after = log.rpartition(_TRACEBACK)
    lines = [line for line in after.splitlines() if line.strip()]
    ours = [line.strip().removeprefix(_MARK) for line in lines if line.strip().startswith(_MARK)]
    errors = [line for line in lines if traceback and not line[0].isspace()]
    if traceback and not lines:
        return last_line(before)
    return (ours[-1:] or errors[:1] or lines[-1:] or [""])[0].strip()[:_LONGEST_REASON]
