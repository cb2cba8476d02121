"""What came of a sweep: a row for each trial, and the mean over repeats with other seeds."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orpo_lightning.summary.intervals import Interval, student_interval
from orpo_lightning.sweep.command import as_typed
from orpo_lightning.sweep.file import Metric, Sweep
from orpo_lightning.sweep.record import Trial
from orpo_lightning.whole_file import whole_file

RESULTS_FILE = "results.csv"
REPEATS_FILE = "repeats.csv"
SEED = "seed_everything"
"""The parameter whose values are repeats."""


@dataclass(frozen=True)
class Repeats:
    """The trials that differ by the seed alone.

    Args:
        parameters: the others, by name.
        values: of the metric, one for each complete trial.
    """

    parameters: Mapping[str, Any]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the values."""
        return sum(self.values) / len(self.values)

    @property
    def interval(self) -> Interval | None:
        """The 95% interval of the mean over all seeds there might be; None of a single trial."""
        return student_interval(self.values) if len(self.values) > 1 else None


def are_repeated(sweep: Sweep, groups: Sequence[Repeats]) -> bool:
    """Whether there are trials that differ by the seed alone, and something to compare them by."""
    return SEED in sweep.parameters and sweep.metric is not None and any(len(each.values) > 1 for each in groups)


def repeats_of(trials: Sequence[Trial]) -> list[Repeats]:
    """The complete trials by their parameters without the seed, in the order of their first.

    Example:
        >>> trials = [Trial(i, {"lambda_": i // 2, SEED: i % 2}, state="complete", value=i) for i in range(4)]
        >>> [(each.parameters, each.values) for each in repeats_of(trials)]
        [({'lambda_': 0}, (0, 1)), ({'lambda_': 1}, (2, 3))]
    """
    groups: dict[str, tuple[Mapping[str, Any], list[float]]] = {}
    for trial in trials:
        if trial.state == "complete" and trial.value is not None:
            others = {name: value for name, value in trial.parameters.items() if name != SEED}
            groups.setdefault(as_typed(others), (others, []))[1].append(trial.value)
    return [Repeats(parameters, tuple(values)) for parameters, values in groups.values()]


def best_trial(trials: Sequence[Trial], metric: Metric | None) -> Trial | None:
    """The complete trial with the best value, of equal ones the first; None where there is none."""
    valued = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    if metric is None or not valued:
        return None
    return min(valued, key=lambda trial: metric.sign * (trial.value or 0.0))


def equals_of(best: Trial, trials: Sequence[Trial]) -> list[Trial]:
    """The complete trials whose value is that of the best one, itself among them.

    Example:
        >>> trials = [Trial(i, {}, {}, "complete", value) for i, value in enumerate([0.5, 0.6, 0.6])]
        >>> [trial.name for trial in equals_of(trials[1], trials)]
        ['001', '002']
    """
    return [trial for trial in trials if trial.state == "complete" and trial.value == best.value]


def write_results(folder: Path, sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Write ``results.csv``: the trials with their parameters, state, values, step and reason.

    Where seeds are repeated, ``repeats.csv`` beside it has the mean over them of each choice of the other parameters.
    """
    metric = sweep.metric.name if sweep.metric else "value"
    with whole_file(folder / RESULTS_FILE) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *sweep.parameters, "state", metric, *sweep.beside, "step", "reason"])
        for trial in trials:
            each = asdict(trial)
            parameters = [as_typed(trial.parameters.get(name)) for name in sweep.parameters]
            values = [
                "" if value is None else repr(value) for value in (trial.value, *map(trial.beside.get, sweep.beside))
            ]
            writer.writerow([trial.name, *parameters, each["state"], *values, each["step"], each["reason"]])
    groups = repeats_of(trials)
    if are_repeated(sweep, groups):
        _write_repeats(folder, sweep, groups)


def _write_repeats(folder: Path, sweep: Sweep, groups: Sequence[Repeats]) -> None:
    names = [name for name in sweep.parameters if name != SEED]
    with whole_file(folder / REPEATS_FILE) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "seeds", "mean", "low", "high"])
        for each in groups:
            ends = ("", "") if each.interval is None else (repr(each.interval.low), repr(each.interval.high))
            parameters = [as_typed(each.parameters.get(name)) for name in names]
            writer.writerow([*parameters, len(each.values), repr(each.mean), *ends])
