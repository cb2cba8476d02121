"""A sweep on the terminal: a table that follows it, or a line for each event where there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orpo_lightning.sweep.command import as_typed
from orpo_lightning.sweep.file import Sweep
from orpo_lightning.sweep.record import Trial
from orpo_lightning.sweep.results import SEED, are_repeated, beside_of, best_trial, equals_of, mean_of, repeats_of

_STYLES = {"running": "cyan", "stopped": "yellow", "complete": "", "pruned": "dim", "failed": "red"}
_BEST = "best"
_DIGITS = 4
_LINES_LEFT_FREE = 2
"""Of a terminal, below the live table."""
_LONGEST_REASON = 60
"""Of a cell; the whole of it is in results.csv."""


@dataclass(frozen=True)
class Row:
    """A trial as it is shown.

    Args:
        trial: with what is known of it now.
        total: optimizer steps that are planned; None where that is not known.
    """

    trial: Trial
    total: int | None = None


class View(AbstractContextManager["View"]):
    """Follows a sweep while it runs.

    Args:
        sweep: the sweep.
        console: where it is shown.
        size: how many trials there will be.
    """

    def __init__(self, sweep: Sweep, console: Console, size: int) -> None:
        self._sweep = sweep
        self._console = console
        self._size = size
        self._states: dict[int, str] = {}
        self._open = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Begin to show it."""
        if self._console.is_terminal:
            live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live = self._open.enter_context(live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._open.close()

    def show(self, rows: Sequence[Row]) -> None:
        """Show what is known now."""
        if self._live is not None:
            self._live.update(self._fitting(rows), refresh=True)
            return
        for row in rows:
            if self._states.get(row.trial.number) != row.trial.state:
                self._states[row.trial.number] = row.trial.state
                self._console.print(Text(event_line(self._sweep, row.trial)), soft_wrap=True)

    def _fitting(self, rows: Sequence[Row]) -> Group:
        """The table of the latest trials and the best one, of as many as the terminal has room for."""
        trials = [row.trial for row in rows]
        best = best_trial(trials, self._sweep.metric)
        title = f"{len(rows)} of {self._size} trials"
        if best is not None:
            title += f"; best: trial {best.name}, {number_text(best.value)}"
        room = max(1, self._console.height - _LINES_LEFT_FREE)
        number = max(1, min(len(rows), room))
        while True:
            first = len(rows) - number
            shown = [row for place, row in enumerate(rows) if place >= first or row.trial is best]
            table = trials_table(self._sweep, rows, shown, title)
            lines = len(self._console.render_lines(table, pad=False))
            if lines <= room or number == 1:
                return table
            number = max(1, min(number - 1, number * room // lines))  # a row may be folded to several lines


def event_line(sweep: Sweep, trial: Trial) -> str:
    """What has happened to a trial, in a line."""
    said = f"trial {trial.name} {trial.state}: {parameters_text(trial.parameters)}"
    if trial.state == "running":
        return said
    if trial.state == "failed":
        return f"{said}: {trial.reason}"
    metric = f", {sweep.metric.name} {number_text(trial.value)}" if sweep.metric else ""
    beside = "".join(f", {name} {number_text(value)}" for name, value in trial.beside.items())
    return f"{said}{metric}{beside} after {trial.step} steps"


def trials_table(sweep: Sweep, rows: Sequence[Row], shown: Sequence[Row], title: str) -> Group:
    """The trials, with the best one marked.

    Args:
        sweep: the sweep.
        rows: all trials.
        shown: those of the table.
        title: said above it.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    varied = [name for name, each in sweep.parameters.items() if each.is_varied]
    names = short_names(varied)
    beside = beside_of(sweep, [row.trial for row in rows])
    metric = [sweep.metric.name] if sweep.metric else []
    measures = map(_heading, (*metric, *beside))
    for column in ("trial", *names.values(), "state", "step", *measures, ""):
        table.add_column(column, justify="right" if column == "step" else "left", overflow="fold")
    trials = [row.trial for row in rows]
    first = best_trial(trials, sweep.metric)
    best = [] if first is None else equals_of(first, trials)
    for row in shown:
        trial = row.trial
        step = f"{trial.step}/{row.total}" if row.total else str(trial.step)
        note = _BEST if trial in best else _shortened(trial.reason)
        table.add_row(
            trial.name,
            *(value_text(trial.parameters[name]) for name in names),
            *(trial.state, step, *([number_text(trial.value)] if metric else [])),
            *(number_text(trial.beside.get(name)) for name in beside),
            Text(note),
            style="bold green" if trial in best else _STYLES[trial.state],
        )
    return _titled(title, table)


def _titled(title: str, table: Table) -> Group:
    return Group(Text(title, style="italic"), table)  # the title of a table is cut to its width


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} …"


def repeats_table(sweep: Sweep, trials: Sequence[Trial]) -> Group | None:
    """The mean over the seeds of each choice of the other parameters; None where no seed is varied."""
    groups, metric = repeats_of(trials), sweep.metric
    if metric is None or not are_repeated(sweep, groups):
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    varied = [name for name in sweep.parameters if name != SEED]
    names = short_names(varied)
    beside = beside_of(sweep, trials)
    measures = map(_heading, (metric.name, *beside))
    for column in (*names.values(), "seeds", *measures, ""):
        table.add_column(column, overflow="fold")
    best = min(groups, key=lambda each: metric.sign * mean_of(metric.name, each.values).value)
    for each in groups:
        parameters = (value_text(each.parameters[name]) for name in names)
        means = (_mean_text(metric.name, each.values), *(_mean_text(name, each.beside(name)) for name in beside))
        table.add_row(*parameters, str(len(each.values)), *means, _BEST if each is best else "")
    return _titled("mean over seeds, with its 95% interval (Student's t)", table)


def _mean_text(name: str, values: Sequence[float]) -> str:
    if not values:
        return number_text(None)
    mean = mean_of(name, values)
    ends = "" if math.isnan(mean.low) else f" [{number_text(mean.low)}, {number_text(mean.high)}]"
    return f"{number_text(mean.value)}{ends}"


def _heading(measure: str) -> str:
    return measure.rpartition("/")[2]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The ends of dotted names that tell them apart.

    Example:
        >>> short_names(["model.optimizer.lr", "model.objective.lambda_", "model.lora.lr"])
        {'model.optimizer.lr': 'optimizer.lr', 'model.objective.lambda_': 'lambda_', 'model.lora.lr': 'lora.lr'}
    """
    short = {}
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [other for other in names if other != name]
        short[name] = next((end for end in ends if not any(each.endswith(f".{end}") for each in others)), name)
    return short


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Parameters in a line.

    Example:
        >>> parameters_text({"model.objective.lambda_": 0.123456, "data.limit": 8})
        'lambda_ 0.1235, limit 8'
    """
    names = short_names(list(parameters))
    return ", ".join(f"{names[name]} {value_text(value)}" for name, value in parameters.items())


def value_text(value: Any) -> str:
    """The value of a parameter, short."""
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else as_typed(value)


def number_text(value: float | None) -> str:
    """The value of a metric, short; a dash for none."""
    return "-" if value is None else f"{value:.{_DIGITS}g}"
