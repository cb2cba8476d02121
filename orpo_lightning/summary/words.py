"""Small pieces of text of a summary."""

from __future__ import annotations

import shlex
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path


def visible(text: str) -> str:
    """Text whose control characters a terminal does not obey, and with nothing in it that cannot be printed.

    Example:
        >>> visible("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    return "".join(
        char
        # joiners hold emoji and scripts together
        if unicodedata.category(char) not in ("Cc", "Cf", "Cs") or char in "\n\t\u200c\u200d"
        else ascii(char)[1:-1]
        for char in text
    )


def cut(text: str, width: int, lines: int) -> list[str]:
    """The beginning of a text in lines of a width; what is left out is marked.

    Example:
        >>> cut("one two three four", width=9, lines=1)
        ['one two …']
    """
    flat = " ".join(visible(text).split())
    return textwrap.wrap(flat, width, max_lines=lines, placeholder=" …", break_on_hyphens=False) or ["(blank)"]


def duration(seconds: float) -> str:
    """A time for a reader.

    Example:
        >>> duration(9.6), duration(75), duration(7260)
        ('9.6 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 20 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def short_path(path: Path) -> str:
    """A path as one types it from here: relative where it is below the working folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def command_lines(words: Sequence[str], width: int = 76) -> list[str]:
    """A command for a shell, broken where a shell allows it.

    Example:
        >>> command_lines(["fit", "--data.train", "a file.jsonl"], width=20)
        ['fit \\\\', "  --data.train 'a file.jsonl'"]
    """
    options: list[str] = []
    for word in map(shlex.quote, words):
        # a value stays with its option
        if options and options[-1].startswith("--") and " " not in options[-1] and not word.startswith("--"):
            options[-1] += f" {word}"
        else:
            options.append(word)
    lines = [options[0]]
    for option in options[1:]:
        if len(lines[-1]) + 1 + len(option) + 2 <= width:
            lines[-1] += f" {option}"
        else:
            lines[-1] += " \\"
            lines.append(f"  {option}")
    return lines
