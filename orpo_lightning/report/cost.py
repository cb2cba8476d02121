"""What was reached beside what it took, and accuracy beside likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orpo_lightning.comparison.runs import Run
from orpo_lightning.comparison.table import Row, value_of
from orpo_lightning.report.curves import work_until
from orpo_lightning.report.plots import Axis, Plot, Trace
from orpo_lightning.summary.intervals import Interval

_NAN = float("nan")
_FRONT = (
    " The line joins the runs that no other one beats in both; a strength that buys accuracy with likelihood moves "
    "along it."
)
_ACCURACY = Axis("accuracy", "share of pairs")


@dataclass(frozen=True)
class _Cost:
    measure: str
    logged: str
    title: str
    axis: Axis


_OF_ALL_STEPS = frozenset({"peak_gb"})
"""Of these the largest value counts, the others add up."""
_COSTS = (
    _Cost("tflop", "work/total_tflop", "operations", Axis("operations in training", "10^12")),
    _Cost("seconds", "time/total_s", "time of the steps", Axis("time of the training steps", "s")),
    _Cost("peak_gb", "memory/peak_gb", "memory", Axis("largest memory", "GB")),
)


def cost_plots(runs: Sequence[Run], rows: Mapping[str, Row]) -> list[Plot]:
    """Accuracy beside operations, time, memory and likelihood, where there are two runs or more to tell apart.

    Args:
        runs: to draw; those that are not compared are left out. Work is that until the last validation of each.
        rows: what they measured, by name of the run.
    """
    ended = [run for run in runs if rows[run.name].why_not_compared is None]
    plots = [_trade_off(ended, rows)]
    for cost in _COSTS:
        reading = "Up and left is better; bars are 95% intervals over the validation pairs."
        points = _points(ended, rows, {run.name: _until_validation(run, rows[run.name], cost) for run in ended})
        plots.append(
            Plot(
                f"accuracy_by_{cost.measure}", f"Accuracy beside {cost.title}", reading, (cost.axis,), _ACCURACY, points
            )
        )
    return [plot for plot in plots if sum(trace.kind == "points" for trace in plot.traces) > 1]


def best_trade_offs(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points that no other one beats: none has both a smaller x and a larger y, or one and the same.

    Args:
        points: x (smaller is better) and y (larger is better) of each.

    Returns:
        Places by rising x.

    Example:
        >>> best_trade_offs([(2.0, 0.9), (1.0, 0.7), (1.5, 0.6), (1.0, 0.5)])
        [1, 0]
    """
    best: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not best or points[i][1] > points[best[-1]][1]:
            best.append(i)
    return best


def _trade_off(runs: Sequence[Run], rows: Mapping[str, Row]) -> Plot:
    traces = _points(runs, rows, {run.name: value_of(rows[run.name].nll_response) for run in runs})
    chosen = [traces[i] for i in best_trade_offs([(trace.x[0][0], trace.y[0]) for trace in traces])]
    # also of one point: a page draws it anew for the runs that are shown
    front = Trace(
        label="best trade-offs",
        kind="front",
        group="",
        runs=tuple(trace.runs[0] for trace in chosen),
        x=(tuple(trace.x[0][0] for trace in chosen),),
        y=tuple(trace.y[0] for trace in chosen),
    )
    return Plot(
        "accuracy_by_nll_response",
        "Accuracy beside likelihood",
        f"Up and left is better.{_FRONT}",
        (Axis("nll_response", "nats/token"),),
        _ACCURACY,
        (front, *traces),
    )


def _until_validation(run: Run, row: Row, cost: _Cost) -> float | None:
    """What a run had taken when it was validated last, which is what its quality was bought with."""
    total: float | None = getattr(row, cost.measure)
    series = run.series.get(cost.logged)
    if total is None or series is None or row.validated_at is None or row.validated_at >= row.steps:
        return total
    if cost.measure in _OF_ALL_STEPS:
        until = series.values[series.steps <= row.validated_at]
        return float(until.max()) if until.size else None
    return float(work_until(run, cost.logged, np.array([row.validated_at]))[0])


def _points(runs: Sequence[Run], rows: Mapping[str, Row], places: Mapping[str, float | None]) -> tuple[Trace, ...]:
    traces = []
    for run in runs:
        row = rows[run.name]
        place, accuracy = places[run.name], value_of(row.accuracy)
        if place is None or accuracy is None:
            continue
        interval = row.accuracy if isinstance(row.accuracy, Interval) else Interval(accuracy, _NAN, _NAN)
        traces.append(
            Trace(
                label=run.label,
                kind="points",
                group=run.name,
                runs=((run.name,),),
                x=((place,),),
                y=(accuracy,),
                low=(interval.low,),
                high=(interval.high,),
                notes=(f"stopped early, validated at step {row.validated_at}" if row.status == "stopped" else "",),
            )
        )
    return tuple(traces)
