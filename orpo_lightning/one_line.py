"""Whatever a row, a file or somebody else's message holds, as a part of a line."""

from __future__ import annotations

_END = 120
"""Characters of a long text's end that are kept: it says what to do."""


def in_line(text: str, longest: int = 500) -> str:
    r"""A text as a part of a line that can be printed and is read: without line breaks, and not too long.

    Args:
        text: whatever there is.
        longest: characters that are kept; of a longer text the beginning and the end are.

    Example:
        >>> in_line("a\nb\ud800"), len(in_line("a" * 10**6))
        ('a\\nb\\ud800', 503)
    """
    if len(text) > longest:
        text = f"{text[: longest - _END]} … {text[-_END:]}"
    return text if text.isprintable() else "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
