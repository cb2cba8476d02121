"""What the reader of a comparison would otherwise miss, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orpo_lightning.comparison.differences import Group, changed_data
from orpo_lightning.comparison.runs import Run
from orpo_lightning.comparison.significance import Tested
from orpo_lightning.comparison.table import Row

_EQUAL = 1.01
"""Ratio of the most to the least up to which runs have done equally much."""
_WORK = {"pairs_seen": "pairs", "tokens_seen": "tokens", "tflop": "operations"}
_ENDED = {"stopped": "was stopped", "failed": "failed", "running": "is running, or was killed,"}


def of_sets(runs: Sequence[Run], sets: Sequence[str], shown: str) -> Iterator[str]:
    """Which validation set is shown, where there are several.

    Args:
        runs: that are compared.
        sets: all that have pairs.
        shown: that one.
    """
    others = [name for name in sets if name != shown]
    if others:
        yield f"Of the validation sets this is {_named(shown)}; the others: {', '.join(map(_named, others))}."
    if any(run.answers and shown in run.sets[1:] for run in runs):
        yield "The answers are to prompts of the first validation set of each run, whichever set is shown."


def of_endings(rows: Sequence[Row]) -> Iterator[str]:
    """Which runs did not come to their end, and why."""
    for row in rows:
        if row.status in _ENDED:
            because = f": {row.reason}" if row.reason else "."
            yield f"{row.run} {_ENDED[row.status]} after {row.steps:,} steps{because}"


def of_health(runs: Sequence[Run]) -> Iterator[str]:
    """What the runs have found to be wrong with themselves, and which of them have."""
    names: dict[str, list[str]] = {}
    for run in runs:
        for found in run.record.health:
            names.setdefault(found.sentence, []).append(run.name)
    for sentence, found_by in names.items():
        yield f"{', '.join(found_by)}: {sentence}."


def of_baseline(baseline: Row) -> Iterator[str]:
    """Why nothing can be tested against a baseline that was asked for."""
    why = "no validation pairs" if not baseline.validation_pairs else baseline.why_not_compared
    if why is not None:
        yield f"Nothing is tested against the baseline {baseline.run}: {why}."


def of_what_is_left_out(rows: Sequence[Row], tested: Tested) -> Iterator[str]:
    """Which runs are in no test, and why.

    Args:
        rows: of all runs.
        tested: those that were tested, or could not be.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.why_not_compared is not None:
            if len(rows) > 1 or row.validated_at == 0:
                reasons.setdefault((row.why_not_compared, "test, mean or plot of quality"), []).append(row.run)
        elif len(rows) > 1 and not row.validation_pairs:
            reasons.setdefault(("no validation pairs", "test"), []).append(row.run)
        elif row.run in tested.untested:
            reasons.setdefault((tested.untested[row.run], "test"), []).append(row.run)
    for (reason, what), names in reasons.items():
        yield f"{', '.join(names)}: {reason}, so {'it is' if len(names) == 1 else 'they are'} in no {what}."


def of_pairs(rows: Mapping[str, Row], tested: Tested) -> Iterator[str]:
    """Whether the tests are on all pairs of both runs."""
    if any(
        test.pairs < max(rows[test.run].validation_pairs, rows[test.baseline].validation_pairs) for test in tested.tests
    ):
        yield "The runs were not validated on the same pairs; the tests take those that both of two runs have."


def of_repeats(runs: Sequence[Run], groups: Sequence[Group]) -> Iterator[str]:
    """Which runs are no repeats although they look like ones.

    Args:
        runs: all of them.
        groups: of repeats.
    """
    for group in groups:
        if group.copies:
            names = ", ".join(run.name for run in group.copies)
            of = ", ".join(run.name for run in group.runs)
            yield f"{names}: with a seed that {of} had before, so not counted again as another seed."
    for alike in changed_data(runs):
        names = ", ".join(run.name for run in alike)
        yield f"{names}: equal settings, but not equal data (data_report.json), so not repeats of each other."


def of_work(rows: Sequence[Row]) -> Iterator[str]:
    """How unequally much the runs have done, where they have."""
    ratios: dict[tuple[str, str], list[str]] = {}
    for field, name in _WORK.items():
        done = {row.run: value for row in rows if (value := getattr(row, field))}
        if not done:
            continue
        least, most = min(done, key=lambda run: done[run]), max(done, key=lambda run: done[run])
        if done[most] > _EQUAL * done[least]:
            ratios.setdefault((most, least), []).append(f"{done[most] / done[least]:,.3g} times the {name}")
    if ratios:
        listed = "; ".join(f"{most} {', '.join(each)} of {least}" for (most, least), each in ratios.items())
        yield f"The runs have not done equally much: {listed}. Look at the cost beside the quality."


def _named(of_set: str) -> str:
    return of_set or "the one without a name"
