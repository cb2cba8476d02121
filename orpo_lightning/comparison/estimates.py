"""What is known of a measure from one run, or from several that differ by their seeds alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orpo_lightning.comparison.measures import Measure
from orpo_lightning.comparison.table import Row, value_of
from orpo_lightning.summary.intervals import Interval, student_interval

_NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A measure of a run, or the mean of several that differ by their seeds alone.

    Args:
        interval: the value with its ends; they are NaN where nothing tells them.
        basis: what the interval says.
    """

    interval: Interval
    basis: str


def estimate(rows: Sequence[Row], measure: Measure) -> Estimate | None:
    """A measure of repeats: Student's interval over seeds, of a single run the bootstrap over its pairs; None where it
    was not measured. No end is out of the range of the measure.

    Args:
        rows: of runs that differ by their seeds alone.
        measure: what is asked for.
    """
    found = [(row, getattr(row, measure.name)) for row in rows]
    values = [value for value in (value_of(each) for _, each in found) if value is not None]
    if not values:
        return None
    if len(values) > 1 and len(set(values)) == 1:  # an interval of no width would claim too much
        return Estimate(Interval(values[0], _NAN, _NAN), f"{len(values)} seeds, all with this value, no interval")
    if len(values) > 1:
        over_seeds = student_interval(values)
        low, high = max(over_seeds.low, measure.lowest), min(over_seeds.high, measure.highest)
        basis = f"mean of {len(values)} seeds, Student's interval over them"
        return Estimate(replace(over_seeds, low=low, high=high), basis)
    row, only = next(each for each in found if each[1] is not None)
    if isinstance(only, Interval):
        kind = "exact binomial" if measure.is_share and only.value in (0.0, 1.0) else "bootstrap"
        return Estimate(only, f"one seed, {kind} interval over {row.validation_pairs:,} pairs")
    return Estimate(Interval(values[0], _NAN, _NAN), "one seed, no interval")
