"""A comparison for a terminal, or for a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orpo_lightning.comparison.comparison import Comparison
from orpo_lightning.comparison.differences import NOT_A_SETTING
from orpo_lightning.comparison.runs import strength_in_words
from orpo_lightning.comparison.table import Row
from orpo_lightning.summary.intervals import LEVEL, RESAMPLES, Interval
from orpo_lightning.summary.sentences import EXPLANATION
from orpo_lightning.summary.words import duration, visible

_FEW_RUNS = 3
"""Runs whose settings stand side by side; of more, each value is followed by the runs that have it."""
_LONGEST_VALUE = 60
_ASIDE, _HEADING = "dim", "bold"
_Shown = Callable[[Row], str]


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a comparison.

    Args:
        comparison: what to print.
        console: where to.
    """
    of = f" of {comparison.of_set}" if comparison.of_set else ""
    models = {row.model for row in comparison.rows if row.model}
    quality = _QUALITY if len(models) > 1 else {name: show for name, show in _QUALITY.items() if name != "model"}
    on = f", {next(iter(models))}" if len(models) == 1 else ""
    _print_rows(console, f"Quality on the validation pairs{of}{on}", quality, comparison.rows)
    _print_rows(console, "Cost of the training", _COST, comparison.rows)
    if comparison.repeats:
        _print_repeats(comparison, console)
    if comparison.tests:
        _print_tests(comparison, console)
    if comparison.differences:
        _print_differences(comparison, console)
    if comparison.notes:
        console.print()
    for note in comparison.notes:
        console.print(Text(visible(note), style="yellow"))
    for sentence in _explanations(comparison):
        console.print(Text(sentence, style=_ASIDE))


def _print_rows(console: Console, title: str, columns: dict[str, _Shown], rows: Sequence[Row]) -> None:
    cells = {name: [show(row) for row in rows] for name, show in columns.items()}
    shown = {name: column for name, column in cells.items() if any(column)}
    _print(console, title, list(shown), zip(*shown.values(), strict=True))


def _print(console: Console, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_ASIDE)
    for name in header:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console.print(Text(visible(f"\n{title}"), style=_HEADING))
    console.print(table)


def _print_repeats(comparison: Comparison, console: Console) -> None:
    rows = [
        [", ".join(each.runs), *(_measured(each.means.get(name), scale) for name, scale in _SCALES.items())]
        for each in comparison.repeats
    ]
    _print(console, "Mean over seeds", ["runs", "accuracy, %", "margin", "nll"], rows)


def _print_tests(comparison: Comparison, console: Console) -> None:
    rows = [
        [
            *(each.run, each.measure, _measured(each.difference, _SCALES[each.measure], "+")),
            *(f"{each.p:.2g}", f"{each.pairs:,}"),
        ]
        for each in comparison.tests
    ]
    title = f"Difference from {comparison.tests[0].baseline} on the same pairs"
    _print(console, title, ["run", "measure", "difference", "p", "pairs"], rows)


def _print_differences(comparison: Comparison, console: Console) -> None:
    names = [row.run for row in comparison.rows]
    if len(names) <= _FEW_RUNS:
        side_by_side = [[key, *map(_short, values)] for key, values in comparison.differences.items()]
        _print(console, "Settings that differ", ["setting", *names], side_by_side)
        return
    rows: list[list[str]] = []
    for key, values in comparison.differences.items():
        having: dict[str, list[str]] = {}
        for name, value in zip(names, values, strict=True):
            if value != NOT_A_SETTING:
                having.setdefault(_short(value), []).append(name)
        if len(having) > 1:  # else it is an argument that the others do not have
            rows += [["" if place else key, each, ", ".join(having[each])] for place, each in enumerate(having)]
    _print(console, "Settings that differ", ["setting", "value", "runs"], rows)


def _explanations(comparison: Comparison) -> Iterator[str]:
    yield f"\n{EXPLANATION} Neither holds a strength or a reference, so that they compare objectives."
    yield (
        f"Ranges are {LEVEL:.0%} intervals, from {RESAMPLES:,} resamples of the pairs; they tell how much depends on "
        "the choice of pairs, not how much another seed would change."
    )
    if comparison.repeats:
        yield "Those of means over seeds are Student's."
    if comparison.tests:
        yield "p: how often signs by the toss of a coin give a difference as large; adjusted by Holm for all runs."


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _measured(value: Interval | float | None, scale: float, sign: str = "") -> str:
    decimals = 1 if scale == 100 else 3
    form = f"{sign}z.{decimals}f"
    if isinstance(value, Interval):
        return f"{scale * value.value:{form}} ({scale * value.low:{form}} to {scale * value.high:{form}})"
    return "" if value is None else f"{scale * value:{form}}"


def _answers(row: Row) -> str:
    cut = f" ({row.answers_cut}/{row.answers} cut)" if row.answers_cut else ""
    return "" if row.answer_tokens is None else f"{row.answer_tokens:.0f}{cut}"


def _short(value: Any) -> str:
    text = "-" if value == NOT_A_SETTING else str(value).removeprefix("orpo_lightning.")
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


_SCALES = {"accuracy": 100.0, "margin": 1.0, "nll_response": 1.0}
"""What a measure is multiplied by to be shown."""
_QUALITY: dict[str, _Shown] = {
    "run": lambda row: row.run,
    "objective": lambda row: f"{row.objective} {strength_in_words(row.strength_name, row.strength)}".rstrip(),
    "model": lambda row: row.model or "",
    "accuracy, %": lambda row: _measured(row.accuracy, _SCALES["accuracy"]),
    "margin": lambda row: _measured(row.margin, _SCALES["margin"]),
    "nll": lambda row: _number(row.nll_response, ".3f"),
    "answer tokens": _answers,
}
_COST: dict[str, _Shown] = {
    "run": lambda row: row.run,
    "status": lambda row: row.status,
    "steps": lambda row: f"{row.steps:,}",
    "pairs": lambda row: _number(row.pairs_seen, ",.0f"),
    "tokens": lambda row: _number(row.tokens_seen, ",.0f"),
    "10^12 op.": lambda row: _number(row.tflop, ",.4g"),
    "time": lambda row: "" if row.seconds is None else duration(row.seconds),
    "peak GB": lambda row: _number(row.peak_gb, ".2f"),
}
