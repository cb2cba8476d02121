"""What came of a sweep: a row for each trial, and the mean over repeats with other seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orpo_lightning.summary.intervals import Interval, student_interval
from orpo_lightning.sweep.command import as_typed
from orpo_lightning.sweep.file import ACCURACY, Metric, Sweep
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
        trials: complete, with a value of the metric.
    """

    parameters: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """Of the metric, one for each trial."""
        return tuple(trial.value for trial in self.trials if trial.value is not None)

    def beside(self, name: str) -> tuple[float, ...]:
        """Those of a measure that is recorded beside it."""
        return tuple(trial.beside[name] for trial in self.trials if name in trial.beside)


def mean_of(name: str, values: Sequence[float]) -> Interval:
    """The mean with its 95% interval over all seeds there might be; an accuracy's is within its range.

    Its ends are NaN where nothing tells them: for one value, and where all are equal, as one of no width would claim
    too much.

    Args:
        name: of the measure.
        values: one of each seed.

    Example:
        >>> mean_of("val/loss", [0.5])
        Interval(value=0.5, low=nan, high=nan)
        >>> mean_of("val/pref/accuracies", [0.5, 1.0])
        Interval(value=0.75, low=0.0, high=1.0)
    """
    if len(set(values)) == 1:
        return Interval(values[0], math.nan, math.nan)
    found = student_interval(values)
    if name.endswith(ACCURACY):
        return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0))
    return found


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
    groups: dict[str, tuple[Mapping[str, Any], list[Trial]]] = {}
    for trial in trials:
        if trial.state == "complete" and trial.value is not None:
            others = {name: value for name, value in trial.parameters.items() if name != SEED}
            groups.setdefault(as_typed(others), (others, []))[1].append(trial)
    return [Repeats(parameters, tuple(alike)) for parameters, alike in groups.values()]


def beside_of(sweep: Sweep, trials: Sequence[Trial]) -> list[str]:
    """The measures beside the metric that any trial has logged."""
    return [name for name in sweep.beside if any(name in trial.beside for trial in trials)]


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
    metric = [sweep.metric.name] if sweep.metric else []
    beside = beside_of(sweep, trials)
    with whole_file(folder / RESULTS_FILE) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *sweep.parameters, "state", *metric, *beside, "step", "reason"])
        for trial in trials:
            each = asdict(trial)
            parameters = [as_typed(trial.parameters.get(name)) for name in sweep.parameters]
            values = [*([trial.value] if metric else []), *map(trial.beside.get, beside)]
            writer.writerow([trial.name, *parameters, each["state"], *map(_cell, values), each["step"], each["reason"]])
    groups = repeats_of(trials)
    if are_repeated(sweep, groups):
        _write_repeats(folder, sweep, groups, beside)


def _write_repeats(folder: Path, sweep: Sweep, groups: Sequence[Repeats], beside: Sequence[str]) -> None:
    assert sweep.metric is not None
    names = [name for name in sweep.parameters if name != SEED]
    with whole_file(folder / REPEATS_FILE) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        measures = [f"{name}{end}" for name in (sweep.metric.name, *beside) for end in ("", "_low", "_high")]
        writer.writerow([*names, "seeds", *measures])
        for each in groups:
            parameters = [as_typed(each.parameters.get(name)) for name in names]
            known = {sweep.metric.name: each.values} | {name: each.beside(name) for name in beside}
            means = [mean_of(name, values) if values else None for name, values in known.items()]
            ends = [end for mean in means for end in ((mean.value, mean.low, mean.high) if mean else (None,) * 3)]
            writer.writerow([*parameters, len(each.values), *map(_cell, ends)])


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)
