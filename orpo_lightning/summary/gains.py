"""What the validation pairs measured before and after a training, and whether that is a change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orpo_lightning.summary.intervals import Interval, bootstrap, paired_bootstrap, share_interval
from orpo_lightning.summary.pairs import PairMeasures
from orpo_lightning.summary.series import Series

FEWEST_PAIRS = 10
"""Pairs from which intervals are given: resampling fewer tells nothing."""


@dataclass(frozen=True)
class Gain:
    """A measure before and after.

    Args:
        name: of the measure.
        unit: its unit.
        before: the value before the first step; None if it was not measured.
        after: the value after the last step that was validated; None if it was not measured.
        change: their difference over the same pairs.
    """

    name: str
    unit: str
    before: Interval | float | None
    after: Interval | float | None
    change: Interval | float | None

    @property
    def verdict(self) -> str | None:
        """What may be said of the change, in a sentence; None where there is no interval."""
        if not isinstance(self.change, Interval):
            return None
        if not self.change.excludes_zero:
            return f"{self.name}: no clear change, the interval of its gain includes 0"
        went, side = ("rose", "above") if self.change.value > 0 else ("fell", "below")
        return f"{self.name}: {went}, the interval of its gain is {side} 0"


@dataclass(frozen=True)
class SetGains:
    """The gains of a validation set.

    Args:
        set: its name; empty for the only one.
        pairs: how many pairs were measured; 0 where there are none.
        last_step: the optimizer step of the last validation.
        gains: by measure.
    """

    set: str
    pairs: int
    last_step: int
    gains: tuple[Gain, ...]

    @property
    def has_before(self) -> bool:
        """Whether there are measures from before the first step."""
        return any(gain.before is not None for gain in self.gains)

    @property
    def has_after(self) -> bool:
        """Whether there are measures from after it."""
        return any(gain.after is not None for gain in self.gains)


def gains_of(pairs: Sequence[PairMeasures], series: Mapping[str, Series]) -> list[SetGains]:
    """The gains of all validation sets, in the order of the pairs, then of those without pairs by name.

    Args:
        pairs: the pairs of all validations of a run.
        series: its measures by step.

    Example:
        >>> before, after = (PairMeasures(step, "", "a:1", -2.0, -2.5 + step, -6.0, -5.0, 3, 2) for step in (0, 1))
        >>> [gain.change for gain in gains_of([before, after], {})[0].gains]
        [-100.0, -1.0]
    """
    names = list(dict.fromkeys(pair.set for pair in pairs))
    end = "/nll_response"
    measured = (name for name in series if name.startswith("val/") and name.endswith(end))
    without = sorted(name.removeprefix("val/").removesuffix(end.lstrip("/")).rstrip("/") for name in measured)
    names += [name for name in without if name not in names]
    return [_of_set(name, [pair for pair in pairs if pair.set == name], series) for name in names]


def _of_set(name: str, pairs: list[PairMeasures], series: Mapping[str, Series]) -> SetGains:
    by_step: dict[int, list[PairMeasures]] = {}
    for pair in pairs:
        by_step.setdefault(pair.step, []).append(pair)
    prefix = f"val/{name}/" if name else "val/"
    logged = [series[prefix + measure] for measure in ("nll_response", "rewards/margins") if prefix + measure in series]
    last = max([*by_step, *(int(each.steps.max()) for each in logged)])
    before, after = by_step.get(0, []), by_step.get(last, []) if last else []
    if before and after:
        before, after = _matched(before, after)
    gains: list[Gain] = []
    if before or after:
        weight = [pair.weight for pair in before or after]
        accuracies = ([100 * pair.accuracy for pair in each] for each in (before, after))
        margins = ([pair.margin for pair in each] for each in (before, after))
        gains = [
            _with_exact_ends(_compared("accuracy", "% of pairs", weight, *accuracies), weight),
            _compared("margin", "nats/token", weight, *margins),
        ]
    gains += _logged(prefix, series, "nll_response", "nats/token")
    if not pairs:
        gains += _logged(prefix, series, "rewards/margins", "reward")
    return SetGains(name, len(before or after), last, tuple(gains))


def _matched(before: list[PairMeasures], after: list[PairMeasures]) -> tuple[list[PairMeasures], list[PairMeasures]]:
    """The pairs that both validations measured, in one order."""
    if [pair.row_id for pair in before] == [pair.row_id for pair in after]:
        return before, after
    first = {pair.row_id: pair for pair in before}
    both = [pair for pair in after if pair.row_id in first]
    return [first[pair.row_id] for pair in both], both


def _compared(name: str, unit: str, weight: list[float], before: list[float], after: list[float]) -> Gain:
    few = len(weight) < FEWEST_PAIRS

    def shown(interval: Interval) -> Interval | float:
        return interval.value if few else interval

    if before and after:
        found = paired_bootstrap(before, after, weight)
        return Gain(name, unit, shown(found.before), shown(found.after), shown(found.gain))
    only = shown(bootstrap(before or after, weight))
    return Gain(name, unit, only if before else None, only if after else None, None)


def _with_exact_ends(accuracy: Gain, weight: list[float]) -> Gain:
    """The same with an interval that has a width where all pairs are right, or all wrong."""

    def widened(value: Interval | float | None) -> Interval | float | None:
        if not isinstance(value, Interval) or value.value not in (0.0, 100.0):
            return value
        exact = share_interval([value.value / 100] * len(weight), weight)
        return Interval(value.value, 100 * exact.low, 100 * exact.high)

    return replace(accuracy, before=widened(accuracy.before), after=widened(accuracy.after))


def _logged(prefix: str, series: Mapping[str, Series], name: str, unit: str) -> list[Gain]:
    each = series.get(prefix + name)
    if each is None:
        return []
    last = int(each.steps.max())
    before = float(each.values[0]) if each.steps[0] == 0 else None
    after = float(each.values[-1]) if last else None
    change = None if before is None or after is None else after - before
    return [Gain(name, unit, before, after, change)]
