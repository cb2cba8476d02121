"""What was reached beside what it took, and accuracy beside likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orpo_lightning.comparison.runs import Run
from orpo_lightning.comparison.table import Row, value_of
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
    title: str
    axis: Axis


_COSTS = (
    _Cost("tflop", "operations", Axis("operations in training", "10^12 floating-point operations")),
    _Cost("seconds", "time", Axis("time of the training steps", "s")),
    _Cost("peak_gb", "memory", Axis("largest memory", "GB")),
)


def cost_plots(runs: Sequence[Run], rows: Mapping[str, Row]) -> list[Plot]:
    """Accuracy beside operations, time, memory and likelihood, where there are two runs or more to tell apart.

    Args:
        runs: to draw; those that failed or have not ended are left out.
        rows: what they measured, by name of the run.
    """
    ended = [run for run in runs if run.record.status in ("complete", "stopped")]
    plots = [_trade_off(ended, rows)]
    for cost in _COSTS:
        reading = "Up and left is better; bars are 95% bootstrap intervals over the validation pairs."
        points = _points(ended, rows, cost.measure)
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
    traces = _points(runs, rows, "nll_response")
    chosen = [traces[i] for i in best_trade_offs([(trace.x[0][0], trace.y[0]) for trace in traces])]
    has_front = len(chosen) > 1
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
        "Up and left is better." + (_FRONT if has_front else ""),
        (Axis("nll_response", "nats/token"),),
        _ACCURACY,
        (front, *traces) if has_front else traces,
    )


def _points(runs: Sequence[Run], rows: Mapping[str, Row], x: str) -> tuple[Trace, ...]:
    traces = []
    for run in runs:
        row = rows[run.name]
        place, accuracy = getattr(row, x), value_of(row.accuracy)
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
                notes=("stopped early",) if run.record.status == "stopped" else ("",),
            )
        )
    return tuple(traces)
