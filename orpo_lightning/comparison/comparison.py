"""All that a comparison of runs says, whoever prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orpo_lightning.comparison.differences import differing_settings, group_repeats
from orpo_lightning.comparison.runs import Run
from orpo_lightning.comparison.significance import PairedTest, paired_tests
from orpo_lightning.comparison.table import Row, value_of
from orpo_lightning.summary.intervals import Interval, student_interval

_REPEATED = ("accuracy", "margin", "nll_response")


@dataclass(frozen=True)
class Repeats:
    """Runs that differ by nothing but their seed.

    Args:
        runs: their names.
        means: the mean of each measure over them, with Student's interval.
    """

    runs: tuple[str, ...]
    means: Mapping[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Args:
        of_set: the validation set; empty for the only one.
        rows: a row of each run.
        differences: the values of each setting in which the runs differ, in the order of the rows.
        tests: paired tests against the baseline.
        repeats: the runs that were repeated with other seeds.
        notes: what the reader would otherwise miss, a sentence each.
    """

    of_set: str
    rows: Sequence[Row]
    differences: Mapping[str, Sequence[Any]]
    tests: Sequence[PairedTest]
    repeats: Sequence[Repeats]
    notes: Sequence[str]

    @classmethod
    def of_runs(cls, runs: Sequence[Run], of_set: str | None = None, baseline: str | None = None) -> Comparison:
        """Compare runs.

        Args:
            runs: to compare.
            of_set: the validation set; None is the first one.
            baseline: name of the run that the others are tested against; None is the first one with pairs.

        Raises:
            ValueError: no run has that set or that name.
        """
        sets = list(dict.fromkeys(name for run in runs for name in run.sets))
        if of_set is not None and of_set not in sets:
            named = [name for name in sets if name]
            accepted = f"one of {', '.join(named)}" if named else "none, as the runs have one set alone"
            raise ValueError(
                f"--set {of_set}: no run has a validation set of that name with pairs; accepted: {accepted}"
            )
        chosen = of_set if of_set is not None else next(iter(sets), "")
        rows = [Row.of_run(run, chosen) for run in runs]
        against = _baseline(runs, baseline, chosen)
        return cls(
            of_set=chosen,
            rows=rows,
            differences=differing_settings(runs),
            tests=paired_tests(runs, against, chosen) if against is not None else [],
            repeats=_repeats(runs, {row.run: row for row in rows}),
            notes=[*_notes(runs, rows, sets, chosen)],
        )


def _baseline(runs: Sequence[Run], name: str | None, of_set: str) -> Run | None:
    if name is None:
        return next((run for run in runs if run.last_pairs(of_set)), None)
    found = [run for run in runs if name in (run.name, str(run.folder))]
    if not found:
        raise ValueError(f"--baseline {name}: no run is named so; accepted: {', '.join(run.name for run in runs)}")
    return found[0]


def _repeats(runs: Sequence[Run], rows: Mapping[str, Row]) -> list[Repeats]:
    found = []
    for group in group_repeats(runs):
        values = {
            measure: [value_of(getattr(rows[run.name], measure)) for run in group if run.record.status == "complete"]
            for measure in _REPEATED
        }
        known = {name: [each for each in column if each is not None] for name, column in values.items()}
        means = {name: student_interval(column) for name, column in known.items() if len(column) > 1}
        if means:
            found.append(Repeats(tuple(run.name for run in group if run.record.status == "complete"), means))
    return found


def _notes(runs: Sequence[Run], rows: Sequence[Row], sets: Sequence[str], chosen: str) -> list[str]:
    notes = []
    others = [name for name in sets if name != chosen]
    if others:
        notes.append(f"Of the validation sets this is {chosen}; the others: {', '.join(others)}.")
    unfinished = [row for row in rows if row.status != "complete"]
    notes += [f"{row.run} {_ended(row)} after {row.steps:,} steps{_because(row)}" for row in unfinished]
    seen = {row.run: row.pairs_seen for row in rows if row.status == "complete" and row.pairs_seen is not None}
    if len(set(seen.values())) > 1:
        notes.append("The runs have not seen equally many pairs: look at the cost beside the quality.")
    identities = {
        frozenset((pair.row_id, pair.chosen_tokens, pair.rejected_tokens) for pair in run.last_pairs(chosen))
        for run in runs
        if run.last_pairs(chosen)
    }
    if len(identities) > 1:
        notes.append("The runs were not validated on the same pairs; the tests take those that both of two runs have.")
    return notes


def _ended(row: Row) -> str:
    return {"stopped": "was stopped", "failed": "failed", "running": "is running, or was killed,"}[row.status]


def _because(row: Row) -> str:
    return f": {row.reason}" if row.reason else "."
