"""All that a comparison of runs says, whoever prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_lightning.comparison import notes
from orpo_lightning.comparison.differences import Group, differing_settings, group_repeats
from orpo_lightning.comparison.estimates import estimate
from orpo_lightning.comparison.measures import MEASURES
from orpo_lightning.comparison.runs import Run
from orpo_lightning.comparison.significance import PairedTest, Tested, paired_tests
from orpo_lightning.comparison.table import Row
from orpo_lightning.summary.intervals import Interval


@dataclass(frozen=True)
class Repeats:
    """Runs that differ by nothing but their seed.

    Args:
        runs: their names, one of each seed.
        means: the mean of each measure over them, with Student's interval; its ends are NaN where all are equal.
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

    @property
    def by_name(self) -> dict[str, Row]:
        """The rows by the names of their runs."""
        return {row.run: row for row in self.rows}

    @classmethod
    def of_runs(
        cls,
        runs: Sequence[Run],
        of_set: str | None = None,
        baseline: str | None = None,
        left_out: Sequence[str] = (),
    ) -> Comparison:
        """Compare runs.

        Args:
            runs: to compare.
            of_set: the validation set; None is the first one.
            baseline: name or folder of the run that the others are tested against; None is the first one with pairs
                that came to its end.
            left_out: what could not be read, a sentence each, to be told among the notes.

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
        rows = {run.name: Row.of_run(run, chosen) for run in runs}
        comparable = [run for run in runs if rows[run.name].why_not_compared is None and run.last_pairs(chosen)]
        against = (comparable[0] if comparable else None) if baseline is None else _named(runs, baseline)
        tested = (
            paired_tests(comparable, against, chosen)
            if against in comparable and against is not None
            else Tested((), {})
        )
        groups = group_repeats([run for run in runs if rows[run.name].why_not_compared is None])
        said = [*rows.values()]
        return cls(
            of_set=chosen,
            rows=said,
            differences=differing_settings(runs),
            tests=tested.tests,
            repeats=_repeats(groups, rows),
            notes=[
                *left_out,
                *notes.of_sets(runs, sets, chosen),
                *notes.of_endings(said),
                *notes.of_health(runs),
                *(notes.of_baseline(rows[against.name]) if baseline is not None and against is not None else ()),
                *notes.of_what_is_left_out(said, tested),
                *notes.of_pairs(rows, tested),
                *notes.of_repeats(runs, groups),
                *notes.of_work(said),
            ],
        )


def _named(runs: Sequence[Run], baseline: str) -> Run:
    folder = Path(baseline).expanduser().resolve()
    found = [run for run in runs if baseline == run.name] or [run for run in runs if run.folder.resolve() == folder]
    if not found:
        raise ValueError(f"--baseline {baseline}: no run is named so; accepted: {', '.join(run.name for run in runs)}")
    return found[0]


def _repeats(groups: Sequence[Group], rows: Mapping[str, Row]) -> list[Repeats]:
    found = []
    for group in groups:
        measured = [rows[run.name] for run in group.runs if rows[run.name].nll_response is not None]
        means = {name: estimate(measured, measure) for name, measure in MEASURES.items()}
        if len(measured) > 1:
            known = {name: each.interval for name, each in means.items() if each is not None}
            found.append(Repeats(tuple(row.run for row in measured), known))
    return found
