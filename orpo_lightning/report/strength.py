"""The strength of an objective against what comes out: one line a model, repeats with other seeds as their mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orpo_lightning.comparison.differences import SEEDS, differing_settings, group_repeats
from orpo_lightning.comparison.runs import Run
from orpo_lightning.comparison.table import Row, value_of
from orpo_lightning.report.plots import Axis, Plot, Trace
from orpo_lightning.summary.intervals import Interval, student_interval

_WIDE = 5.0
"""Ratio of the largest strength to the smallest from which the axis is logarithmic."""
_NAN = float("nan")


@dataclass(frozen=True)
class _Measure:
    name: str
    title: str
    axis: Axis
    reading: str


_MEASURES = (
    _Measure("accuracy", "accuracy", Axis("accuracy", "share of pairs"), "Accuracy alone drives the strength upwards."),
    _Measure("margin", "margin", Axis("margin", "nats/token"), "How far the two log-probabilities are apart."),
    _Measure(
        "nll_response",
        "negative log-likelihood",
        Axis("nll_response", "nats/token"),
        "Lower is better: what the strength costs in likelihood of the chosen answers.",
    ),
)


@dataclass(frozen=True)
class Estimate:
    """A measure of a run, or the mean of several that differ by their seeds alone.

    Args:
        interval: the value with its ends; they are NaN where nothing tells them.
        basis: what the interval says.
    """

    interval: Interval
    basis: str


def estimate(rows: Sequence[Row], measure: str) -> Estimate | None:
    """A measure of repeats: Student's interval over seeds, of a single run the bootstrap over its pairs.

    Args:
        rows: of runs that differ by their seeds alone.
        measure: a field of a row.
    """
    found = [getattr(row, measure) for row in rows]
    values = [value for value in map(value_of, found) if value is not None]
    if len(values) > 1 and len(set(values)) == 1:  # an interval of no width would claim too much
        return Estimate(Interval(values[0], _NAN, _NAN), f"{len(values)} seeds, all with this value, no interval")
    if len(values) > 1:
        return Estimate(student_interval(values), f"mean of {len(values)} seeds, Student's interval over them")
    if not values:
        return None
    only = next(each for each in found if each is not None)
    if isinstance(only, Interval):
        pairs = next(row.validation_pairs for row in rows if getattr(row, measure) is not None)
        return Estimate(only, f"one seed, bootstrap interval over {pairs:,} pairs")
    return Estimate(Interval(values[0], _NAN, _NAN), "one seed, no interval")


def strength_plots(runs: Sequence[Run], rows: Mapping[str, Row]) -> list[Plot]:
    """Accuracy, margin and likelihood over the strength, for each objective that was trained at two of them or more.

    Args:
        runs: to draw; those that failed or have not ended are left out.
        rows: what they measured, by name of the run.
    """
    ended = [run for run in runs if run.record.status in ("complete", "stopped") and run.record.strength is not None]
    families: dict[tuple[str, str], list[list[Run]]] = {}
    for repeats in group_repeats(ended):
        record = repeats[0].record
        families.setdefault((record.objective, record.strength_name or ""), []).append(repeats)
    plots: list[Plot] = []
    for (objective, name), groups in families.items():
        if len({group[0].record.strength for group in groups}) > 1:
            plots += _family(objective, name, groups, rows)
    return plots


def _family(objective: str, name: str, groups: Sequence[list[Run]], rows: Mapping[str, Row]) -> Iterator[Plot]:
    lines: dict[str, list[list[Run]]] = {}
    for label, group in zip(_line_labels(name, groups), groups, strict=True):
        lines.setdefault(label, []).append(group)
    strengths = [float(group[0].record.strength or 0.0) for group in groups]
    is_log = min(strengths) > 0 and max(strengths) / min(strengths) >= _WIDE
    word = name.rstrip("_")
    for measure in _MEASURES:
        traces = tuple(filter(None, (_line(label, each, rows, measure.name) for label, each in lines.items())))
        if traces:
            yield Plot(
                f"{objective.lower()}_{word}_{measure.name}",
                f"{objective}: {word} against {measure.title}",
                f"{measure.reading} Bars are 95% intervals; hovering tells whether over seeds or over pairs.",
                (Axis(word, is_log=is_log),),
                measure.axis,
                traces,
            )


def _line(label: str, groups: Sequence[list[Run]], rows: Mapping[str, Row], measure: str) -> Trace | None:
    ordered = sorted(groups, key=lambda group: group[0].record.strength or 0.0)
    found = [(group, estimate([rows[run.name] for run in group], measure)) for group in ordered]
    points = [(group, each) for group, each in found if each is not None]
    if not points:
        return None
    stopped = ["; stopped early" if any(r.record.status == "stopped" for r in group) else "" for group, _ in points]
    return Trace(
        label=label,
        kind="line",
        group=label,
        runs=tuple(tuple(run.name for run in group) for group, _ in points),
        x=(tuple(float(group[0].record.strength or 0.0) for group, _ in points),),
        y=tuple(each.interval.value for _, each in points),
        low=tuple(each.interval.low for _, each in points),
        high=tuple(each.interval.high for _, each in points),
        notes=tuple(each.basis + note for (_, each), note in zip(points, stopped, strict=True)),
    )


def _line_labels(name: str, groups: Sequence[list[Run]]) -> list[str]:
    """The model of each group, and whatever else differs between the lines."""
    follows_model = {"model.policy.name_or_path", "data.tokenizer", "model.policy.revision", "data.tokenizer_revision"}
    others = {
        key: values
        for key, values in differing_settings([group[0] for group in groups]).items()
        if key not in SEEDS | follows_model | {f"model.objective.{name}"}
    }
    return [
        ", ".join([group[0].record.model or "model", *(_named(key, values[i]) for key, values in others.items())])
        for i, group in enumerate(groups)
    ]


def _named(key: str, value: Any) -> str:
    return f"{key.rpartition('.')[2]} {value:g}" if isinstance(value, float) else f"{key.rpartition('.')[2]} {value}"


def log_ticks(low: float, high: float) -> list[float]:
    """Round values for a logarithmic axis between two ends: 1, 2 and 5 times the powers of 10.

    Example:
        >>> log_ticks(0.05, 1.0)
        [0.05, 0.1, 0.2, 0.5, 1.0]
    """
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    values = [float(f"{step * 10.0**power:.6g}") for power in powers for step in (1, 2, 5)]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]
