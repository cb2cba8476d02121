"""A comparison for a terminal, or for a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from orpo_lightning.comparison.columns import (
    QUALITY,
    WORK,
    Cell,
    Field,
    filled,
    measured,
    name_with,
    setting_text,
    trained,
)
from orpo_lightning.comparison.comparison import Comparison
from orpo_lightning.comparison.differences import NOT_A_SETTING
from orpo_lightning.comparison.layout import tables_of
from orpo_lightning.comparison.measures import MEASURES
from orpo_lightning.comparison.table import Row
from orpo_lightning.summary.intervals import LEVEL, RESAMPLES
from orpo_lightning.summary.sentences import EXPLANATION
from orpo_lightning.summary.words import visible

_FEW_RUNS = 3
"""Runs whose settings stand side by side; of more, each value is followed by the runs that have it."""
_ASIDE, _HEADING = "dim", "bold"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a comparison.

    Args:
        comparison: what to print.
        console: where to.
    """
    of = f" of {comparison.of_set}" if comparison.of_set else ""
    models = {row.model for row in comparison.rows if row.model}
    quality = QUALITY if len(models) > 1 else [field for field in QUALITY if field.title != "model"]
    on = f", {next(iter(models))}" if len(models) == 1 else ""
    _print_rows(console, f"Quality on the validation pairs{of}{on}", quality, comparison.rows)
    _print_rows(console, "Cost of the training", WORK, comparison.rows)
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


def _print_rows(console: Console, title: str, fields: Sequence[Field], rows: Sequence[Row]) -> None:
    shown = filled(fields, rows)
    header = [f"{field.title}, {field.unit}" if field.unit else field.title for field in shown]
    _print(console, title, header, [[_text(field.show(row)) for field in shown] for row in rows])


def _print(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console.print(Text(visible(f"\n{title}"), style=_HEADING))
    for place, table in enumerate(tables_of(header, rows, console.width)):
        if place:
            console.print()
        console.print(table)


def _text(cell: Cell) -> str:
    aside = cell.aside.replace(" to ", "\N{NO-BREAK SPACE}to ")  # an interval goes into two lines, not into three
    return f"{cell.text} ({aside})" if aside else cell.text


def _print_repeats(comparison: Comparison, console: Console) -> None:
    by_name = comparison.by_name
    fields = trained(comparison, [each.runs[0] for each in comparison.repeats])
    rows = [
        [
            ", ".join(each.runs),
            *(_text(field.show(by_name[each.runs[0]])) for field in fields),
            f"{len(each.runs)}",
            *(_text(measured(each.means.get(name), measure)) for name, measure in MEASURES.items()),
        ]
        for each in comparison.repeats
    ]
    header = ["runs", *(field.title for field in fields), "seeds", "accuracy, %", "margin", "nll"]
    _print(console, "Mean over seeds", header, rows)


def _print_tests(comparison: Comparison, console: Console) -> None:
    by_name = comparison.by_name
    baseline = comparison.tests[0].baseline
    fields = trained(comparison, [baseline, *(each.run for each in comparison.tests)])
    rows = [
        [
            each.run,
            *(_text(field.show(by_name[each.run])) for field in fields),
            *(each.measure, _text(measured(each.difference, MEASURES[each.measure], "+"))),
            *(f"{each.p:.2g}", f"{each.p_unadjusted:.2g}", f"{each.pairs:,}"),
        ]
        for each in comparison.tests
    ]
    title = f"Difference from {name_with(fields, by_name[baseline])} on the same pairs"
    titles = [field.title for field in fields]
    _print(console, title, ["run", *titles, "measure", "difference", "p, adjusted", "p, not adjusted", "pairs"], rows)


def _print_differences(comparison: Comparison, console: Console) -> None:
    names = [row.run for row in comparison.rows]
    if len(names) <= _FEW_RUNS:
        side_by_side = [[key, *map(setting_text, values)] for key, values in comparison.differences.items()]
        _print(console, "Settings that differ", ["setting", *names], side_by_side)
        return
    rows: list[list[str]] = []
    for key, values in comparison.differences.items():
        having: dict[str, list[str]] = {}
        for name, value in zip(names, values, strict=True):
            if value != NOT_A_SETTING:
                having.setdefault(setting_text(value), []).append(name)
        if len(having) > 1:  # else it is an argument that the others do not have
            rows += [["" if place else key, each, ", ".join(having[each])] for place, each in enumerate(having)]
    _print(console, "Settings that differ", ["setting", "value", "runs"], rows)


def _explanations(comparison: Comparison) -> Iterator[str]:
    if any(row.nll_response is not None for row in comparison.rows):
        yield f"\n{EXPLANATION} None of them holds a strength or a reference, so that they compare objectives."
    if any(row.validation_pairs for row in comparison.rows):
        yield (
            f"Ranges are {LEVEL:.0%} intervals, from {RESAMPLES:,} resamples of the pairs; they tell how much depends "
            "on the choice of pairs, not how much another seed would change."
        )
    if comparison.repeats:
        yield "Those of means over seeds are Student's."
    if comparison.tests:
        yield (
            "p: how often signs by the toss of a coin give a difference as large, adjusted by Holm for all runs. The "
            "intervals of the differences are not adjusted: each is that of one comparison alone."
        )
