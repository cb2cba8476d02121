"""The strength of an objective against what comes out: one line a model, repeats with other seeds as their mean."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from orpo_lightning.comparison.differences import SEEDS, Group, differing_settings, group_repeats, is_beside_training
from orpo_lightning.comparison.estimates import estimate
from orpo_lightning.comparison.measures import MEASURES
from orpo_lightning.comparison.runs import Run, model_names
from orpo_lightning.comparison.table import Row
from orpo_lightning.report.plots import Axis, Plot, Trace

_WIDE = 5.0
"""Ratio of the largest strength to the smallest from which the axis is logarithmic."""
_LONGEST_LABEL = 60
"""Letters in a legend."""


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


def strength_plots(runs: Sequence[Run], rows: Mapping[str, Row]) -> list[Plot]:
    """Accuracy, margin and likelihood over the strength, for each objective that was trained at two of them or more.

    Args:
        runs: to draw; those that are not compared, or were never validated, are left out.
        rows: what they measured, by name of the run.
    """
    ended = [
        run
        for run in runs
        if run.record.strength is not None
        and rows[run.name].why_not_compared is None
        and rows[run.name].nll_response is not None
    ]
    families: dict[tuple[str, str], list[Group]] = {}
    for repeats in group_repeats(ended):
        record = repeats.runs[0].record
        families.setdefault((record.objective, record.strength_name or ""), []).append(repeats)
    plots: list[Plot] = []
    for (objective, name), groups in families.items():
        if len({_strength(group) for group in groups}) > 1:
            plots += _family(objective, name, groups, rows)
    return plots


@dataclass(frozen=True)
class _Point:
    """Repeats at one strength: the model, and what else tells them from the others."""

    group: Group
    model: str
    others: str


def _family(objective: str, name: str, groups: Sequence[Group], rows: Mapping[str, Row]) -> Iterator[Plot]:
    points = sorted(_points(name, groups), key=lambda point: _strength(point.group))
    lines: dict[str, list[_Point]] = {}
    for point in points:
        lines.setdefault(", ".join(filter(None, (point.model, point.others))), []).append(point)
    # of a search over several settings there are no lines, but points all over the plot
    is_scattered = sum(len(each) == 1 for each in lines.values()) > len(lines) / 2
    if is_scattered:
        lines = {}
        for point in points:
            lines.setdefault(point.model, []).append(point)
    lines = _shortened(lines)
    kind: Literal["scatter", "line"] = "scatter" if is_scattered else "line"
    strengths = [_strength(group) for group in groups]
    is_log = min(strengths) > 0 and max(strengths) / min(strengths) >= _WIDE
    word = name.rstrip("_")
    differ = is_scattered and len(lines) < len(points)
    for measure in _MEASURES:
        traces = tuple(filter(None, (_line(label, each, rows, measure.name, kind) for label, each in lines.items())))
        if traces:
            yield Plot(
                f"{objective.lower()}_{word}_{measure.name}",
                f"{objective}: {word} against {measure.title}",
                f"{measure.reading} {_bars(groups)}{' Other settings differ too.' if differ else ''}",
                (Axis(word, is_log=is_log),),
                measure.axis,
                traces,
                "Hovering tells which." if differ else "",
            )


def _bars(groups: Sequence[Group]) -> str:
    """What the points and their intervals are over."""
    are_many = {len(group.runs) > 1 for group in groups}
    if are_many == {False}:
        return "Each point is of one seed; bars, where there are some, are 95% intervals over the validation pairs."
    if are_many == {True}:
        return "Points are means over seeds; bars, where there are some, are Student's 95% intervals over these."
    return (
        "A point of several seeds is their mean, its bar Student's 95% interval over them; the bar of a single seed is "
        "that over the validation pairs."
    )


def _shortened(lines: dict[str, list[_Point]]) -> dict[str, list[_Point]]:
    """The same by names that a legend has room for, where these tell them apart."""
    short = {textwrap.shorten(label, _LONGEST_LABEL, placeholder=" …"): points for label, points in lines.items()}
    return short if len(short) == len(lines) else lines


def _line(
    label: str, points: Sequence[_Point], rows: Mapping[str, Row], measure: str, kind: Literal["scatter", "line"]
) -> Trace | None:
    estimates = [estimate([rows[run.name] for run in point.group.runs], MEASURES[measure]) for point in points]
    known = [(point, each) for point, each in zip(points, estimates, strict=True) if each is not None]
    if not known:
        return None
    return Trace(
        label=label,
        kind=kind,
        group=label,
        runs=tuple(tuple(run.name for run in point.group.runs) for point, _ in known),
        x=(tuple(_strength(point.group) for point, _ in known),),
        y=tuple(each.interval.value for _, each in known),
        low=tuple(each.interval.low for _, each in known),
        high=tuple(each.interval.high for _, each in known),
        notes=tuple(
            "; ".join(
                filter(None, (point.others if kind == "scatter" else "", each.basis, _stopped(point.group, rows)))
            )
            for point, each in known
        ),
    )


def _stopped(group: Group, rows: Mapping[str, Row]) -> str:
    steps = sorted({rows[run.name].validated_at or 0 for run in group.runs if run.record.status == "stopped"})
    return f"stopped early, validated at step {' and '.join(map(str, steps))}" if steps else ""


def _strength(group: Group) -> float:
    return float(group.runs[0].record.strength or 0.0)


def _points(name: str, groups: Sequence[Group]) -> list[_Point]:
    follows_model = {"model.policy.name_or_path", "data.tokenizer", "model.policy.revision", "data.tokenizer_revision"}
    firsts = [group.runs[0] for group in groups]
    names = model_names({run.record.model for run in firsts if run.record.model})
    others = {
        key: values
        for key, values in differing_settings(firsts).items()
        if key not in SEEDS | follows_model | {f"model.objective.{name}"} and not is_beside_training(key)
    }
    return [
        _Point(
            group,
            names.get(group.runs[0].record.model or "", "model"),
            ", ".join(_named(key, values[i]) for key, values in others.items()),
        )
        for i, group in enumerate(groups)
    ]


def _named(key: str, value: Any) -> str:
    return f"{key.rpartition('.')[2]} {value:g}" if isinstance(value, float) else f"{key.rpartition('.')[2]} {value}"


def log_ticks(low: float, high: float) -> list[float]:
    """Round values for a logarithmic axis between two ends: 1, 2 and 5 times the powers of 10.

    Example:
        >>> log_ticks(0.05, 1.0)
        [0.05, 0.1, 0.2, 0.5, 1.0]
        >>> log_ticks(0.21, 0.21)
        [0.21]
    """
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    values = [float(f"{step * 10.0**power:.6g}") for power in powers for step in (1, 2, 5)]
    return [value for value in values if low * 0.999 <= value <= high * 1.001] or sorted({low, high})
