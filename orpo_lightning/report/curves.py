"""Measures over the training: by optimizer steps, tokens or operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orpo_lightning.comparison.runs import Run
from orpo_lightning.report.plots import Axis, Plot, Points, Role, Trace
from orpo_lightning.summary.series import MANY_STEPS, Series, running_mean, window_of

MOST_POINTS = 500
"""Of a line; a longer one is drawn by so many of its points."""
_FEW_RUNS = 3
"""Runs up to which the values are drawn behind their running mean."""
_PROGRESS = (
    ("", Axis("optimizer steps")),
    ("work/total_tokens", Axis("training tokens", "each prompt counted once")),
    ("work/total_tflop", Axis("operations in training", "10^12")),
)
"""What a training is measured by, with the measure that counts it."""


@dataclass(frozen=True)
class _Curve:
    """A measure; not drawn of a run that logs the other one, which says the same."""

    measure: str
    role: Role = ""
    unless: str = ""


@dataclass(frozen=True)
class _Curves:
    """One plot: its key and title, what is drawn, and how to read it."""

    key: str
    title: str
    y: Axis
    curves: tuple[_Curve, ...]
    reading: str


_SHARED = (
    _Curves(
        "log_probabilities",
        "Log-probability of the answers",
        Axis("log-probability", "nats/token"),
        (_Curve("logps_mean/chosen", "chosen"), _Curve("logps_mean/rejected", "rejected")),
        "Solid: chosen answers, dashed: rejected ones. A preference is learned where the two part; where both fall, "
        "the model forgets how to write.",
    ),
    _Curves(
        "margin",
        "Margin of the log-probabilities",
        Axis("margin", "nats/token", level=0.0),
        (_Curve("pref/margins"),),
        "Mean log-probability of the chosen answer less that of the rejected one. Above 0 the chosen one is likelier.",
    ),
    _Curves(
        "accuracy",
        "Accuracy",
        Axis("accuracy", "share of pairs", level=0.5),
        (_Curve("pref/accuracies"),),
        "Share of pairs whose chosen answer is the likelier one per token; a tie counts half, 0.5 is no preference.",
    ),
    _Curves(
        "nll_response",
        "Negative log-likelihood of the chosen answers",
        Axis("nll_response", "nats/token"),
        (_Curve("nll_response"),),
        "How well the model still writes the chosen answers: lower is likelier. What is gained above should not be "
        "paid for here.",
    ),
)
_OF_THE_OBJECTIVE = (
    _Curves(
        "log_odds",
        "Log odds ratio",
        Axis("log odds ratio", "nats", level=0.0),
        (_Curve("log_odds_chosen"),),
        "Log of the odds of the chosen answer over those of the rejected one, what ORPO pushes up.",
    ),
    _Curves(
        "delta",
        "Delta: how wrong the pairs are",
        Axis("delta", level=0.5),
        (_Curve("delta"),),
        "1 / (1 + odds ratio): 0.5 at a tie, towards 0 as the pairs are told apart and the gradient dies down.",
    ),
    _Curves(
        "gradient_coefficients",
        "Gradient coefficients",
        Axis("delta / (1 - P)"),
        (_Curve("grad_coef/chosen", "chosen"), _Curve("grad_coef/rejected", "rejected")),
        "How hard the odds-ratio term pushes the chosen answer up (solid) and the rejected one down (dashed), before "
        "lambda. A rise means that P nears 1.",
    ),
    _Curves(
        "reward_margin",
        "Reward margin",
        Axis("reward margin", level=0.0),
        (_Curve("rewards/margins", unless="log_odds_chosen"),),  # where there are odds, it is the margin times lambda
        "The implicit reward of the chosen answer less that of the rejected one. It contains the strength, so only "
        "runs of one objective and strength compare.",
    ),
    _Curves(
        "loss",
        "Loss",
        Axis("loss"),
        (_Curve("loss"),),
        "What is minimised; another quantity for each objective and strength, so never a measure to select by.",
    ),
    _Curves(
        "gradient_norm",
        "Gradient norm",
        Axis("norm before clipping"),
        (_Curve("grad_norm"),),
        "Of the global batch. Spikes are steps that went wrong, or nearly so.",
    ),
)


def shared_curves(runs: Sequence[Run], of_set: str) -> list[Plot]:
    """The measures that mean the same for every objective.

    Args:
        runs: to draw.
        of_set: the validation set; empty for the only one.
    """
    return _plots(_SHARED, runs, of_set)


def objective_curves(runs: Sequence[Run], of_set: str) -> list[Plot]:
    """The measures that belong to an objective.

    Args:
        runs: to draw.
        of_set: the validation set; empty for the only one.
    """
    return _plots(_OF_THE_OBJECTIVE, runs, of_set)


def work_until(run: Run, measure: str, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """What a training had used up after numbers of steps; NaN where the run did not count it.

    Args:
        run: the run.
        measure: what counts it, such as ``work/total_tokens``; empty counts the steps themselves.
        steps: optimizer steps done.
    """
    if not measure:
        return steps.astype(np.float64)
    counted = run.series.get(measure)
    if counted is None:
        return np.full(len(steps), np.nan)
    # a training row has the number of the steps before it, and counts its own
    used: NDArray[np.float64] = np.interp(steps, [0, *(counted.steps + 1)], [0.0, *counted.values])
    return used


def _plots(families: Sequence[_Curves], runs: Sequence[Run], of_set: str) -> list[Plot]:
    counted = [
        (measure, axis) for measure, axis in _PROGRESS if not measure or any(measure in run.series for run in runs)
    ]
    axes = tuple(axis for _, axis in counted)
    plots = []
    for each in families:
        measures = [measure for measure, _ in counted]
        traces = tuple(
            trace
            for run in runs
            for curve in each.curves
            if not curve.unless or f"train/{curve.unless}" not in run.series
            for trace in _traces(run, curve, of_set, measures, with_raw=len(runs) <= _FEW_RUNS)
        )
        if traces:
            plots.append(Plot(each.key, each.title, each.reading, axes, each.y, traces))
    return plots


def _traces(run: Run, curve: _Curve, of_set: str, progress: Sequence[str], with_raw: bool) -> Iterator[Trace]:
    training = run.series.get(f"train/{curve.measure}")
    if training is not None and len(training.steps) < MANY_STEPS:
        yield _trace(run, "training", curve, training, progress)
    elif training is not None:
        if with_raw:
            yield _trace(run, "raw", curve, training, progress)
        smooth = running_mean(training.values, window_of(len(training.steps)))
        yield _trace(run, "training", curve, Series(training.steps, smooth), progress)
    validation = run.series.get(f"val/{of_set}/{curve.measure}" if of_set else f"val/{curve.measure}")
    if validation is not None:
        yield _trace(run, "validation", curve, validation, progress)


def _trace(
    run: Run, kind: Literal["raw", "training", "validation"], curve: _Curve, series: Series, progress: Sequence[str]
) -> Trace:
    kept = _spread(len(series.steps))
    steps = series.steps[kept]
    return Trace(
        label=" ".join(filter(None, (curve.role, "validation" if kind == "validation" else "training"))),
        kind=kind,
        group=run.name,
        runs=((run.name,),),
        x=tuple(_points(work_until(run, measure, steps)) for measure in progress),
        y=_points(series.values[kept]),
        role=curve.role,
    )


def _spread(count: int) -> NDArray[np.int64]:
    """The places of at most so many of a number of points, the first and the last among them."""
    spread: NDArray[np.int64] = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(np.int64))
    return spread


def _points(values: NDArray[np.float64]) -> Points:
    return tuple(values.tolist())
