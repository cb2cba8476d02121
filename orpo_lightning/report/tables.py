"""The tables of a report, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orpo_lightning.comparison.columns import (
    QUALITY,
    WORK,
    Cell,
    Field,
    filled,
    measured,
    name_with,
    number,
    setting_text,
    trained,
)
from orpo_lightning.comparison.measures import MEASURES
from orpo_lightning.comparison.runs import Run
from orpo_lightning.comparison.significance import PairedTest
from orpo_lightning.report.contents import Report
from orpo_lightning.summary.intervals import LEVEL, RESAMPLES

_COUNT = ",.0f"


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        title: its heading.
        is_number: whether it is aligned and sorted as numbers.
        unit: of the numbers.
    """

    title: str
    is_number: bool = True
    unit: str = ""


@dataclass(frozen=True)
class TableRow:
    """A row, and the runs that it is of."""

    runs: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        key: its name for programs.
        title: its heading.
        text: how to read it.
        columns: its columns; the first one names the row.
        rows: its rows, never none.
    """

    key: str
    title: str
    text: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class GivenAnswer:
    """An answer, the runs that gave it, and when."""

    runs: tuple[str, ...]
    about: str
    text: str


@dataclass(frozen=True)
class PromptAnswers:
    """A prompt and the answers to it."""

    prompt: str
    answers: tuple[GivenAnswer, ...]


def quality_table(report: Report) -> Table:
    """A row of each run: what it trained, and what came out."""
    has_pairs = any(row.validation_pairs for row in report.comparison.rows)
    intervals = (
        f" Below them {LEVEL:.0%} intervals from {RESAMPLES:,} resamples of the pairs, which tell nothing of another "
        "seed."
    )
    measures = (
        "After the last validation. Accuracy: share of pairs whose chosen answer is the likelier one per token. "
        "Margin: of the mean log-probabilities. nll: of the chosen answers, lower is likelier. None of them holds a "
        f"strength or a reference, so they compare objectives.{intervals}"
    )
    text = measures if has_pairs else "No run has validation pairs."
    return _of_rows(report, "comparison", "Comparison", text, QUALITY)


def work_table(report: Report) -> Table:
    """A row of each run: how it ended, and what it took."""
    text = (
        "With what came before a resumption. Wall time is from before the data and the model are loaded to the end of "
        "the training, validation included; beside it the time of the training steps alone."
    )
    return _of_rows(report, "work", "Cost of the training", text, WORK)


def repeats_table(report: Report) -> Table | None:
    """The means over seeds; None where no run was repeated."""
    comparison = report.comparison
    if not comparison.repeats:
        return None
    by_name = comparison.by_name
    fields = trained(comparison, [each.runs[0] for each in comparison.repeats])
    return Table(
        "repeats",
        "Mean over seeds",
        "Of runs that differ by nothing but their seed, with Student's 95% intervals; without one where all are equal.",
        (
            *(Column("runs", False), *_columns(fields), Column("seeds"), Column("accuracy", unit="%")),
            *(Column("margin", unit="nats/token"), Column("nll", unit="nats/token")),
        ),
        tuple(
            TableRow(
                each.runs,
                (
                    Cell(", ".join(each.runs)),
                    *(field.show(by_name[each.runs[0]]) for field in fields),
                    number(len(each.runs), ""),
                    *(measured(each.means.get(name), measure) for name, measure in MEASURES.items()),
                ),
            )
            for each in comparison.repeats
        ),
    )


def tests_table(report: Report) -> Table | None:
    """The paired tests against the baseline; None where there is nothing to test."""
    tests = report.comparison.tests
    if not tests:
        return None
    by_name = report.comparison.by_name
    fields = trained(report.comparison, [tests[0].baseline, *(test.run for test in tests)])
    by_run: dict[str, dict[str, PairedTest]] = {}
    for test in tests:
        by_run.setdefault(test.run, {})[test.measure] = test
    rows = (
        TableRow(
            (name,),
            (
                Cell(name),
                *(field.show(by_name[name]) for field in fields),
                *(cell for measure in MEASURES for cell in _test_cells(found[measure])),
                number(found["accuracy"].pairs, ",.0f"),
            ),
        )
        for name, found in by_run.items()
    )
    return Table(
        "tests",
        f"Difference from {name_with(fields, by_name[tests[0].baseline])}",
        "On the same validation pairs. p: how often signs by the toss of a coin give a difference as large, adjusted "
        "by Holm for the number of runs, and below it not adjusted. The paired bootstrap intervals are not adjusted: "
        "each is that of one comparison alone.",
        (
            *(Column("run", False), *_columns(fields)),
            *(Column("accuracy", unit="percentage points"), Column("p", unit="of accuracy")),
            *(Column("margin", unit="nats/token"), Column("p", unit="of margin")),
            *(Column("nll", unit="nats/token"), Column("p", unit="of nll"), Column("pairs")),
        ),
        tuple(rows),
    )


def settings_table(report: Report) -> Table | None:
    """The settings in which the runs differ; None where they do not."""
    differences = report.comparison.differences
    if not differences:
        return None
    return Table(
        "settings",
        "Settings that differ",
        "Everything else is the same in all runs. A dash: not a setting of that run.",
        (Column("run", False), *(Column(key, False) for key in differences)),
        tuple(
            TableRow((run.name,), (Cell(run.name), *(Cell(setting_text(values[i])) for values in differences.values())))
            for i, run in enumerate(report.runs)
        ),
    )


def data_table(report: Report) -> Table | None:
    """What became of the rows of the data; None where no run tells. Runs with the same data share their rows."""
    shared: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run in report.runs:
        if run.data_report:
            shared.setdefault(repr(run.data_report), (run.data_report, []))[1].append(run.name)
    if not shared:
        return None
    rows = [
        TableRow(tuple(names), tuple(_data_cells(name, split, names, len(shared) > 1)))
        for data, names in shared.values()
        for name, split in data.items()
    ]
    lengths = tuple(Column(part, unit="median; p90, max") for part in ("prompt", "chosen", "rejected"))
    counts = (Column("read"), Column("kept"), Column("dropped", False), Column("cut", False))
    more = (Column("prompts shared"), Column("chosen is longer", unit="%"), Column("tokens"))
    return Table(
        "data",
        "Data",
        "What became of every row: read = kept + dropped, each drop under one reason. Lengths are in tokens.",
        (Column("split", False), Column("source", False), Column("format", False), *counts, *lengths, *more),
        tuple(rows),
    )


def answers_of(runs: Sequence[Run]) -> list[PromptAnswers]:
    """What the runs answered to the same prompts, before and after their training.

    Args:
        runs: in the order in which their answers are to be read.
    """
    prompts: dict[str, tuple[str, dict[tuple[str, ...], list[str]], list[GivenAnswer]]] = {}
    for run in runs:
        last = max((answer.step for answer in run.answers), default=0)
        for answer in run.answers:
            _, before, after = prompts.setdefault(f"{answer.row_id}\n{answer.prompt}", (answer.prompt, {}, []))
            length = "" if answer.tokens is None else f"{answer.tokens:,} tokens"
            about = ", ".join(filter(None, (length, "" if answer.finished else "cut off at the longest length")))
            if answer.step == 0:  # that of an untrained model is the same for many runs
                before.setdefault((answer.answer, about), []).append(run.name)
            elif answer.step == last:
                when = f"after step {answer.step:,}"
                after.append(GivenAnswer((run.name,), ", ".join(filter(None, (when, about))), answer.answer))
    return [
        PromptAnswers(
            prompt,
            (
                *(
                    GivenAnswer(tuple(names), f"before training, {about}", text)
                    for (text, about), names in before.items()
                ),
                *after,
            ),
        )
        for prompt, before, after in prompts.values()
    ]


def _of_rows(report: Report, key: str, title: str, text: str, fields: Sequence[Field]) -> Table:
    rows = report.comparison.rows
    shown = filled(fields, rows)
    return Table(
        key,
        title,
        text,
        _columns(shown),
        tuple(TableRow((row.run,), tuple(field.show(row) for field in shown)) for row in rows),
    )


def _columns(fields: Sequence[Field]) -> tuple[Column, ...]:
    return tuple(Column(field.title, field.is_number, field.unit) for field in fields)


def _data_cells(name: str, split: Mapping[str, Any], runs: Sequence[str], are_many: bool) -> Iterator[Cell]:
    yield Cell(name, ", ".join(runs) if are_many else "")
    yield Cell(str(split.get("source", "")))
    yield Cell(str(split.get("format", "")))
    yield number(split.get("read"), _COUNT)
    yield number(split.get("kept"), _COUNT)
    yield _reasons(split.get("dropped", {}))
    yield _reasons(split.get("truncated", {}))
    for part in ("prompt", "chosen", "rejected"):
        found = split.get("lengths", {}).get(part)
        ends = f"{found['p90']:,.0f}, {found['max']:,.0f}" if found else ""
        yield Cell(f"{found['median']:,.0f}", ends, found["median"]) if found else Cell()
    yield number(split.get("shared_prompts"), _COUNT)
    longer = split.get("longer_is_chosen")
    yield number(None if longer is None else 100 * longer, ".0f")
    yield number(split.get("tokens"), _COUNT)


def _test_cells(test: PairedTest) -> Iterator[Cell]:
    yield measured(test.difference, MEASURES[test.measure], "+")
    yield Cell(f"{test.p:.2g}", f"{test.p_unadjusted:.2g}", test.p)


def _reasons(counts: Mapping[str, int]) -> Cell:
    return Cell(", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none")
