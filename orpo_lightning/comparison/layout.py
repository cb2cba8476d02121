"""Tables that fit a terminal without a number broken in two."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from orpo_lightning.summary.words import visible

_GAP = 2
"""Columns of a terminal between two of a table."""
_BREAKS = re.compile(r"(?<=[./_\-])(?=[^\W\d])")
"""Where a name may be broken: after a mark, before a letter. No number is broken anywhere."""
_ASIDE = re.compile(r" (?=\()")
"""Before an interval, the best place to break a cell."""


def tables_of(header: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[Table]:
    """The tables that hold some cells: one, or where the room is too narrow for all columns several, each with the
    first column.

    Args:
        header: a heading for each column.
        rows: a text for each column.
        room: columns of the terminal.
    """
    columns = [[name, *(row[i] for row in rows)] for i, name in enumerate(header)]
    least = [min(_least(column), max(1, (room - _GAP) // 2)) for column in columns]
    blocks = [[0]]
    for i in range(1, len(columns)):
        if len(blocks[-1]) > 1 and sum(least[j] + _GAP for j in blocks[-1]) + least[i] > room:
            blocks.append([0])
        blocks[-1].append(i)
    return [_table([columns[i] for i in block], [least[i] for i in block], room) for block in blocks]


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines, broken at spaces, in a name that is longer after a mark, and anywhere only where nothing else
    helps.

    Example:
        >>> wrapped("model.objective.lambda_", 16)
        ['model.objective.', 'lambda_']
        >>> wrapped("-0.125 (-0.250 to 0.000)", 18)
        ['-0.125', '(-0.250 to 0.000)']
    """
    if cell_len(text) > width and _ASIDE.search(text):
        return [line for part in _ASIDE.split(text) for line in wrapped(part, width)]
    lines = [""]
    for word in text.split(" "):
        space = " " if lines[-1] else ""
        if cell_len(lines[-1] + space + word) <= width:
            lines[-1] += space + word
            continue
        lines.append("")
        for piece in _BREAKS.split(word):
            for start in range(0, len(piece), width):
                part = piece[start : start + width]
                if cell_len(lines[-1] + part) > width:
                    lines.append("")
                lines[-1] += part
    return [line for line in lines if line] or [""]


def _least(column: Sequence[str]) -> int:
    """The width in which no piece of a cell is broken."""
    return max(
        (cell_len(piece) for cell in column for word in cell.split(" ") for piece in _BREAKS.split(word)), default=1
    )


def _lengths_of_parts(cells: Sequence[str]) -> list[int]:
    return [cell_len(part) for cell in cells for part in _ASIDE.split(cell)]


def _table(columns: Sequence[Sequence[str]], least: Sequence[int], room: int) -> Table:
    # a heading is broken before any cell is, then cells are before their intervals
    heads = [_least(cells[:1]) for cells in columns]
    widths = [max(head, *map(cell_len, cells[1:])) for head, cells in zip(heads, columns, strict=True)]
    parts = [max(head, *_lengths_of_parts(cells[1:])) for head, cells in zip(heads, columns, strict=True)]
    while sum(widths) + _GAP * (len(widths) - 1) > room:
        reducible = [i for i, width in enumerate(widths) if width > least[i]]
        if not reducible:
            break
        widest = max(reducible, key=lambda i: widths[i])
        below = widths[widest] - 1
        widths[widest] = max(min(parts[widest], below) if widths[widest] > parts[widest] else below, least[widest])
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for cells, width in zip(columns, widths, strict=True):
        table.add_column(Text("\n".join(wrapped(visible(cells[0]), width))), no_wrap=True)
    for row in zip(*(cells[1:] for cells in columns), strict=True):
        lines = ("\n".join(wrapped(visible(cell), width)) for cell, width in zip(row, widths, strict=True))
        table.add_row(*(Text(each.replace("\N{NO-BREAK SPACE}", " ")) for each in lines))
    return table
