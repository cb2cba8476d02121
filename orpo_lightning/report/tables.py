"""The tables of a report, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orpo_lightning.comparison.differences import NOT_A_SETTING
from orpo_lightning.comparison.runs import Run, strength_in_words
from orpo_lightning.comparison.significance import PairedTest
from orpo_lightning.comparison.table import Row
from orpo_lightning.report.contents import Report
from orpo_lightning.summary.intervals import LEVEL, RESAMPLES, Interval
from orpo_lightning.summary.words import duration

_LONGEST_VALUE = 80


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
class Cell:
    """A cell; empty where nothing was measured.

    Args:
        text: what is shown.
        aside: what is shown after it, smaller.
        value: what a column of numbers is sorted by.
    """

    text: str = ""
    aside: str = ""
    value: float | None = None


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


def comparison_table(report: Report) -> Table:
    """A row of each run: what it trained, what it took, what came out."""
    columns = (
        *(Column("run", False), Column("objective", False), Column("strength"), Column("model", False)),
        *(Column("accuracy", unit="%"), Column("margin", unit="nats/token"), Column("nll", unit="nats/token")),
        *(Column("answers", unit="tokens"), Column("pairs seen"), Column("tokens"), Column("operations", unit="10^12")),
        *(Column("time"), Column("memory", unit="GB"), Column("status", False)),
    )
    return Table(
        "comparison",
        "Comparison",
        "After the last validation. Accuracy: share of pairs whose chosen answer is the likelier one per token. "
        "Margin: of the mean log-probabilities. nll: of the chosen answers, lower is likelier. None of them holds a "
        f"strength or a reference, so they compare objectives. Below them {LEVEL:.0%} intervals from {RESAMPLES:,} "
        "resamples of the pairs, which tell nothing of another seed.",
        columns,
        tuple(TableRow((row.run,), tuple(_comparison_cells(row))) for row in report.comparison.rows),
    )


def tests_table(report: Report) -> Table | None:
    """The paired tests against the baseline; None where there is nothing to test."""
    tests = report.comparison.tests
    if not tests:
        return None
    by_run: dict[str, dict[str, PairedTest]] = {}
    for test in tests:
        by_run.setdefault(test.run, {})[test.measure] = test
    rows = (
        TableRow(
            (name,),
            (
                Cell(name),
                *_test_cells(found["accuracy"], 1, 100.0),
                *_test_cells(found["margin"], 3),
                _counted(found["accuracy"].pairs),
            ),
        )
        for name, found in by_run.items()
    )
    return Table(
        "tests",
        f"Difference from {tests[0].baseline}",
        "On the same validation pairs, with paired bootstrap intervals. p: how often signs by the toss of a coin give "
        "a difference as large, adjusted by Holm for the number of runs.",
        (
            *(Column("run", False), Column("accuracy", unit="percentage points"), Column("p", unit="of accuracy")),
            *(Column("margin", unit="nats/token"), Column("p", unit="of margin"), Column("pairs")),
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
            TableRow((run.name,), (Cell(run.name), *(_setting(values[i]) for values in differences.values())))
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
    more = (Column("prompts shared with validation"), Column("chosen is longer", unit="%"), Column("tokens"))
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


def _comparison_cells(row: Row) -> Iterator[Cell]:
    yield Cell(row.run)
    yield Cell(row.objective)
    yield Cell(strength_in_words(row.strength_name, row.strength), value=row.strength)
    yield Cell(row.model or "", _size(row.parameters))
    yield _measured(row.accuracy, 1, 100.0)
    yield _measured(row.margin, 3)
    yield _number(row.nll_response, ".3f")
    cut = f"{row.answers_cut} of {row.answers} cut off" if row.answers_cut else ""
    yield Cell() if row.answer_tokens is None else Cell(f"{row.answer_tokens:.0f}", cut, row.answer_tokens)
    yield _counted(row.pairs_seen)
    yield _counted(row.tokens_seen)
    yield _number(row.tflop, ",.4g")
    yield Cell() if row.seconds is None else Cell(duration(row.seconds), value=row.seconds)
    yield _number(row.peak_gb, ".2f")
    yield Cell(row.status, row.reason or "")


def _size(parameters: int | None) -> str:
    return "" if parameters is None else f"{parameters / 1e6:,.3g}\N{NO-BREAK SPACE}M\N{NO-BREAK SPACE}parameters"


def _counted(value: float | None) -> Cell:
    return _number(value, ",.0f")


def _number(value: float | None, form: str) -> Cell:
    return Cell() if value is None else Cell(f"{value:{form}}", value=value)


def _measured(value: Interval | float | None, decimals: int, scale: float = 1.0, sign: str = "") -> Cell:
    if value is None:
        return Cell()
    form = f"{sign}z.{decimals}f"
    if isinstance(value, Interval):
        ends = f"{scale * value.low:{form}} to {scale * value.high:{form}}"
        return Cell(f"{scale * value.value:{form}}", ends, value.value)
    return Cell(f"{scale * value:{form}}", value=value)


def _setting(value: Any) -> Cell:
    text = "-" if value == NOT_A_SETTING else str(value).removeprefix("orpo_lightning.")
    return Cell(text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} …")


def _data_cells(name: str, split: Mapping[str, Any], runs: Sequence[str], are_many: bool) -> Iterator[Cell]:
    yield Cell(name, ", ".join(runs) if are_many else "")
    yield Cell(str(split.get("source", "")))
    yield Cell(str(split.get("format", "")))
    yield _counted(split.get("read"))
    yield _counted(split.get("kept"))
    yield _reasons(split.get("dropped", {}))
    yield _reasons(split.get("truncated", {}))
    for part in ("prompt", "chosen", "rejected"):
        found = split.get("lengths", {}).get(part)
        ends = f"{found['p90']:,.0f}, {found['max']:,.0f}" if found else ""
        yield Cell(f"{found['median']:,.0f}", ends, found["median"]) if found else Cell()
    yield _counted(split.get("shared_prompts"))
    longer = split.get("longer_is_chosen")
    yield _number(None if longer is None else 100 * longer, ".0f")
    yield _counted(split.get("tokens"))


def _test_cells(test: PairedTest, decimals: int, scale: float = 1.0) -> Iterator[Cell]:
    yield _measured(test.difference, decimals, scale, "+")
    yield Cell(f"{test.p:.2g}", value=test.p)


def _reasons(counts: Mapping[str, int]) -> Cell:
    return Cell(", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none")
