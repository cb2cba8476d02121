"""The summary of a run for a terminal of 80 columns, or for a file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from orpo_lightning.summary.answers import Answer
from orpo_lightning.summary.gains import Gain, SetGains
from orpo_lightning.summary.run import RunSummary
from orpo_lightning.summary.sentences import EXPLANATION, format_value, interval_note, labelled, speed_sentences
from orpo_lightning.summary.words import command_lines, cut, short_path, visible

_WIDEST = 100
_INDENT = "  "
_ITEM = "- "
_ANSWER_LINES = 4
_PROMPT_LINES = 2
_HEADING, _ASIDE, _NOTE = "bold", "dim", "yellow"


@dataclass(frozen=True)
class Line:
    """A line of text, and the style of rich that it is printed in."""

    text: str = ""
    style: str = ""


def print_summary(summary: RunSummary, console: Console) -> None:
    """Print a summary.

    Args:
        summary: what to print.
        console: where to.
    """
    for line in summary_lines(summary, console.width):
        # not wrapped: a path or a command is copied as it stands
        console.print(Text(line.text, style=line.style), soft_wrap=True)


def summary_lines(summary: RunSummary, width: int = 80) -> Iterator[Line]:
    """The lines of a summary; none is longer than the width but for a word or a path that is."""
    width = min(width, _WIDEST) - 1  # a line that fills a terminal leaves an empty one on some
    yield Line()
    yield from _heading(summary.title, width)
    yield from _wrapped(f"{summary.ending}.", width)
    if summary.outcome.warnings:
        yield from _heading("Warnings", width)
    for warning in summary.outcome.warnings:
        yield from _item(warning, width, _NOTE)
    for each in summary.sets:
        yield from _set(each, width)
    if summary.notes:
        yield Line()
    for note in summary.notes:
        yield from _wrapped(note, width, _NOTE)
    if summary.answers:
        yield from _answers(summary, width)
    if summary.outcome.reports:
        yield from _heading("Data", width)
        for report in summary.outcome.reports:
            yield from _wrapped(report, width)
    yield from _heading("Speed", width)
    for sentence in speed_sentences(summary.outcome.speed):
        yield from _wrapped(sentence, width)
    yield from _heading(f"In {short_path(summary.folder)}", width)
    longest = max(map(len, summary.files)) + 2
    for name, what in summary.files.items():
        yield Line(f"{_INDENT}{name:{longest}}{what}")
    if summary.next_steps:
        yield from _heading("Try next", width)
        for step in summary.next_steps:
            yield from _wrapped(f"# {step.what}", width, _ASIDE)
            for line in command_lines(step.words, width - len(_INDENT)):
                yield Line(f"{_INDENT}{line}")


def _heading(text: str, width: int) -> Iterator[Line]:
    yield Line()
    for line in textwrap.wrap(visible(text), width, break_on_hyphens=False):
        yield Line(line, _HEADING)


def _wrapped(text: str, width: int, style: str = "") -> Iterator[Line]:
    for line in textwrap.wrap(visible(text), width - len(_INDENT), break_on_hyphens=False, break_long_words=False):
        yield Line(_INDENT + line, style)


def _item(text: str, width: int, style: str) -> Iterator[Line]:
    for number, line in enumerate(_wrapped(text, width - len(_ITEM), style)):
        yield Line(f"{_INDENT}{_ITEM if not number else ' ' * len(_ITEM)}{line.text.removeprefix(_INDENT)}", style)


def _set(each: SetGains, width: int) -> Iterator[Line]:
    name = f" {each.set}" if each.set else ""
    pairs = f", {each.pairs:,} pairs" if each.pairs else ""
    yield from _heading(f"Validation{name}{pairs}", width)
    yield from _table(each.gains)
    for gain in each.gains:
        if gain.verdict:
            yield from _wrapped(gain.verdict, width)
    if any(gain.verdict for gain in each.gains):
        yield from _wrapped(interval_note(each.pairs), width, _ASIDE)
    if any(gain.name == "accuracy" for gain in each.gains):
        yield from _wrapped(EXPLANATION, width, _ASIDE)


def _table(gains: tuple[Gain, ...]) -> Iterator[Line]:
    """Two lines for each measure: its values, and below them their intervals."""
    rows = [["", "before", "after", "gain"]]
    for gain in gains:
        cells = [
            ["-"] if value is None else list(format_value(value, gain.unit)) for value in (gain.before, gain.after)
        ]
        cells.append(["-"] if gain.change is None else list(format_value(gain.change, gain.unit, sign="+")))
        values, intervals = zip(*(["".join(cell[:1]), "".join(cell[1:])] for cell in cells), strict=True)
        rows += [[gain.name, *values], [gain.unit, *intervals]]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for number, row in enumerate(rows):
        cells_of_row = (f"{cell:{cell_width}}" for cell, cell_width in zip(row, widths, strict=True))
        yield Line((_INDENT + "   ".join(cells_of_row)).rstrip(), _ASIDE if number == 0 else "")


def _answers(summary: RunSummary, width: int) -> Iterator[Line]:
    yield from _heading("Answers to validation prompts, likeliest token by token", width)
    left = f"{_INDENT}{{:8}}"
    for number, (first, last) in enumerate(summary.answers):
        if number:
            yield Line()
        texts = [("prompt", first.prompt, _PROMPT_LINES, _HEADING)]
        texts += [(label, _shown(answer), _ANSWER_LINES, "") for label, answer in labelled(first, last)]
        for label, text, lines, style in texts:
            for place, line in enumerate(cut(text, width - len(left.format("")), lines)):
                yield Line(left.format(label if not place else "") + line, style)


def _shown(answer: Answer) -> str:
    return answer.answer if answer.finished or not answer.answer.strip() else f"{answer.answer} …"
