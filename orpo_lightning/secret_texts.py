"""The secrets inside of a text that somebody has typed: an option, a pair, a header, the access to a database."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_lightning.secret_names import is_secret_name

_SCHEME = re.compile(r"(?:Bearer|Basic|Digest|Token) +", re.IGNORECASE)
_NAME = re.compile(
    r"(?<![\w.-])--[\w.-]+ +|(?<![\w.-])-*\w[\w.-]*(?:=| = )|'[A-Za-z][\w.-]*': |\"[A-Za-z][\w.-]*\": ?(?=\")"
    r"|(?P<line>^[ -]*(?i:(?:Proxy-)?Authorization|(?:Set-)?Cookie): ?)"
    r"|^[ -]*[A-Za-z][\w.-]*:(?!//) ?(?=\S+$)|[{,] *[A-Za-z][\w.-]*: (?=[^\s,}]+ *[,}])"
    r"|(?<=['\"])[A-Za-z][\w.-]*:(?!//) ?(?=(?:\w+ +)?[^\s'\"]+['\"])"
    r"|(?P<scheme>\b(?:Bearer|Basic) +)(?=[\w.~+/-]*(?:\d|[a-z][A-Z]))(?=[\w.~+/-]{8})",
    re.MULTILINE,
)
"""A name that a value follows: ``--key value``, ``key=value``, ``'key': 'value'``, and of YAML a line or mapping.

As a line of YAML a header is written, too. What follows the name of a scheme alone has to look like no word.
"""
_VALUE = re.compile(r"\$?\{[^}\n]*\}|'[^'\n]*'|\"[^\"\n]*\"|[^\s'\",;)\]}&#]+")
_LINE = re.compile(r".+")
_PAIR = re.compile(r"([\w.-][\w .-]*)=([^;]*)(?:;|$)")
_PAIRS = re.compile(r"\s*[\w.-][\w .-]*=[^;]*(?:;\s*[\w.-][\w .-]*=[^;]*)*;[^;=]*")
"""A text that is nothing else: ``Server=db;User Id=me;Password=...;``. There a value may have blanks and commas."""
_STAND_IN = re.compile(r"-|\$\{|\$[A-Z_][A-Z0-9_]*\b|\{[\w.]*\}")


def named_values(text: str) -> Iterator[tuple[int, int, str]]:
    """What follows the names of secrets in a text: where it begins and ends, and what it is without quotes.

    Example:
        >>> [value for *_, value in named_values("--user me --api-key abc; Authorization: Bearer 0123456789")]
        ['abc', '0123456789']
        >>> [value for *_, value in named_values("Server=db;User Id=me;Password=a, b;")]
        ['a, b']
    """
    if _PAIRS.fullmatch(text):
        for pair in _PAIR.finditer(text):
            if is_secret_name(pair[1]):
                yield *pair.span(2), pair[2].strip("'\"")
        return
    end = 0
    for name in _NAME.finditer(text):
        if name.start() < end or not (name["scheme"] or is_secret_name(name[0].strip("-=:'\"{, "))):
            continue
        scheme = _SCHEME.match(text, name.end())
        value = (_LINE if name["line"] else _VALUE).match(text, scheme.end() if scheme else name.end())
        if value is not None:
            end = value.end()
            yield *value.span(), value[0].strip("'\"")


def stands_for_another(value: str) -> bool:
    """Whether what follows a name is said elsewhere, or is the next option.

    Example:
        >>> [stands_for_another(each) for each in ("${oc.env:HF_TOKEN}", "$HF_TOKEN", "{token}", "--verbose", "abc")]
        [True, True, True, True, False]
    """
    return _STAND_IN.match(value) is not None
