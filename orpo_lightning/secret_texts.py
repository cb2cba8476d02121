"""The secrets inside of a text that somebody has typed: an option, a pair, a header, the access to a database."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from typing import NamedTuple

from orpo_lightning.secret_names import is_secret_name, is_unmistakable, words_of

_OF_PAIR = r"(?:\{[^}\n]{0,200}\}|'[^'\n]{0,200}'|\"[^\"\n]{0,200}\")?[^;\n]*"
_A_PAIR = rf"[ \t]*[\w.-][\w .-]*=(?>{_OF_PAIR})"
_ISSUED = (
    r"(?:(?<=\\n)|(?<![A-Za-z0-9_-]))(?:"
    r"(?:hf_|gh[opsru]_|github_pat_|sk-|[sr]k_(?:live|test)_|xox[a-z]-|xapp-|npm_|pypi-|gsk_|r8_)"
    r"[A-Za-z0-9_-]{0,40}?(?<![A-Za-z0-9])(?P<drawn>[A-Za-z0-9]{20,})[A-Za-z0-9_-]*"
    r"|(?:AIza|glpat-|nvapi-)[A-Za-z0-9_-]{20,}|A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])|local-[0-9a-f]{40}(?![A-Za-z0-9])"
    r"|eyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]{10,})++"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----END)[\s\S])*(?:-----END [A-Z ]{0,40}-----)?)"
)
"""A key in the form in which a service hands it out, or a private one; of what is drawn in it `_is_issued` looks."""
_NAME = re.compile(
    rf"(?P<pairs>^(?=[^\n]*;)(?:[^\s;=]+;)?{_A_PAIR}(?:;{_A_PAIR})*;?[ \t]*$)"
    rf"|(?P<issued>{_ISSUED})"
    r"|(?:^[ \t]*|(?<![\w.-]))(?P<user>(?:-u|--user|--proxy-user)(?:=|[ \t]+)(?P<open>['\"]?)[^\s:'\"]{1,200}:)"
    r"|\b(?P<scheme>(?i:Bearer|Basic)) +"
    r"|(?<![\w.-])--(?P<option>\w[\w.-]*)(?:[ \t]|\\\n)++(?![-=:])"
    r"|(?P<part>^[ \t-]*|(?<=\\n)[ \t-]*|[{\[(,;='\"][ \t]*)?(?:(?<=\\n)|(?<![\w.-])(?!(?<=\\)n))"
    r"(?P<dashes>-*)(?P<name>\w[\w.-]*)(?P<quote>\\*['\"]\]?)?[ \t]*(?P<sign>=(?!=)>?|:(?!//))(?P<blanks>[ \t]*)",
    re.MULTILINE,
)
"""What a value follows: ``--key``, ``key=``, ``key:``, a scheme or a user. Keys as services issue them are found
without a name, and the pairs of a database as a whole line.

A part is what such a name begins: a line, or what is in quotes or brackets or after a comma, semicolon or ``=``. A name
may also be after an end of a line that is quoted, ``\\n``.
"""
_PAIR = re.compile(rf"(?:^|;)[ \t]*(?P<name>[\w.-][\w .-]*)=[ \t]*(?P<value>{_OF_PAIR})", re.MULTILINE)
_PASSWORD = {"": re.compile(r"[^\s'\"]+"), "'": re.compile(r"[^'\n]+"), '"': re.compile(r"[^\"\n]+")}
_OF_CURL = re.compile(r"\bcurl\b(?:[^\n|;]|\\\n)*\Z")
_VALUE = re.compile(
    r"\\+'[^'\\\n]*\\+'|\\+\"[^\"\\\n]*\\+\"|"
    r"'[^'\n]*'|\"(?:[^\"\\\n]|\\.)*\"|"
    r"(?:\$?\{[^}\n]{0,200}\}|<[^<>\n]{0,80}>|[^\s'\",;&)\]}]"
    r"|[,;&)\]}]++(?=[^\s'\"])(?!(?<=[,;&])[\w.-]+[=:])|['\"](?=\w))++"
)
"""What is in quotes, or a word. Punctuation is a part of it where the word goes on, and not with another name."""
_END_OF_PART = re.compile(r"[ \t]*(?:$|[\r,;)\]}'\"#(&])", re.MULTILINE)
_SCHEME = re.compile(r"(?:Bearer|Basic|Token|(?P<pairs>Digest)) +", re.IGNORECASE)
_ANY_SCHEME = re.compile(r"(?:(?P<sure>[A-Z][\w-]*|[\w-]*(?i:key))|[\w-]+)[ \t]+(?![-=:])")
"""What may be a scheme of an access. One with a capital or of a key is no word of a sentence where one word follows."""
_HEADERS = {"authorization", "proxy-authorization", "cookie", "set-cookie"}
"""Those that may have pairs, up to the end of the line or of what is in quotes."""
_PAIRS_OF_HEADER = {quote: re.compile(rf"[^{quote}\n]*=[^{quote}\n]*") for quote in ("", "'", '"')}
_SAID_ELSEWHERE = re.compile(r"\$\{[^{}\n]*\}|\$[A-Z_][A-Z0-9_]*|<[^<>\n]*>")
_TEMPLATE = re.compile(r"\{\{?[\w. ]*\}?\}")
_NO_WORD = re.compile(r"(?=.{8}).*(?:\d|[a-z][A-Z])", re.DOTALL)
"""Of 8 characters or more, with a digit or a capital inside: after a name that is no other the value of it."""
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?=[A-Za-z0-9]{8})(?:[A-Za-z]+\d+[A-Za-z]|\d+[A-Za-z]+\d)"
    r"|(?=[A-Za-z0-9]{20})(?:[A-Za-z]+\d|\d+[A-Za-z]))"
)
"""8 letters and digits or more that take turns, or 20: after ``token``, too, no ordinary word, model or number."""
_LETTERS = re.compile(r"[A-Za-z]{20,}")
_ISSUED_KEY = re.compile(_ISSUED)
_NONE = {"", "null", "none", "true", "false"}


class NamedValue(NamedTuple):  # dataclasses look for a module of Java: the help imports the standard library alone
    """What follows the name of a secret in a text.

    Args:
        start: where it begins, in characters.
        stop: where it ends.
        text: it, without quotes.
        strength: 2 where it is a secret wherever else it is found, 1 where it is one here and may be a word elsewhere,
            0 where its name may be a word as well, -1 where it stands for what is said elsewhere.
    """

    start: int
    stop: int
    text: str
    strength: int


def says_none(value: str) -> bool:
    """Whether a value says that there is none, as ``null`` and ``None`` do."""
    return value.lower() in _NONE


def named_values(text: str) -> Iterator[NamedValue]:
    """What follows the names of secrets in a text, in its order.

    One of strength 0 or less may have others inside.

    Example:
        >>> [each.text for each in named_values("--user me --api-key abc; X-Auth-Token: 0123456789, n=1")]
        ['abc', '0123456789']
        >>> [each.text for each in named_values("Server=db;User Id=me;Password=a, b")]
        ['a, b']
        >>> [(each.text, each.strength) for each in named_values("one token = one vote, api_key=${oc.env:KEY}")]
        [('one', 0), ('${oc.env:KEY}', -1)]
    """
    position = 0
    while name := _NAME.search(text, position):
        position = name.end("name") if name["name"] else name.end()  # the sign may begin a part
        if name["pairs"]:
            yield from _of_pairs(name)
            continue
        value = _value_of(name)
        if value is not None:
            yield value
            position = value.stop if value.strength > 0 else position


def _of_pairs(line: re.Match[str]) -> Iterator[NamedValue]:
    for pair in _PAIR.finditer(line.string, *line.span()):
        name, value, start = pair["name"].strip(), pair["value"].rstrip(), pair.start("value")
        bare = value.strip("{}'\"")  # braces are quotes here, and no template
        if not is_secret_name(name):
            for each in named_values(value):
                yield NamedValue(each.start + start, each.stop + start, each.text, each.strength)
        elif _SAID_ELSEWHERE.fullmatch(value):
            yield NamedValue(start, start + len(value), value, -1)
        elif not says_none(bare):
            strength = _strength(name, bare, is_one=is_unmistakable(name))
            yield NamedValue(start, start + len(value), bare, 2 if strength and re.search(r"\s", bare) else strength)


def _value_of(name: re.Match[str]) -> NamedValue | None:
    if name["issued"]:
        return NamedValue(*name.span("issued"), name["issued"], 2) if _is_issued(name) else None
    if name["user"]:
        return _of_user(name)
    return _of_scheme(name) if name["scheme"] else _of_name(name)


def _of_user(name: re.Match[str]) -> NamedValue | None:
    text = name.string
    password = _PASSWORD[name["open"]].match(text, name.end())
    if password is None or not _OF_CURL.search(text, max(0, name.start() - 300), name.start()):
        return None
    if _stands_for_another(password[0]):
        return NamedValue(*password.span(), password[0], -1)
    return NamedValue(*password.span(), password[0], _strength("password", password[0], is_one=True))


def _of_scheme(name: re.Match[str]) -> NamedValue | None:
    value = _VALUE.match(name.string, name.end())
    if value is None:
        return None
    if _stands_for_another(value[0]):
        return NamedValue(*value.span(), value[0], -1)
    is_bearer = name["scheme"].lower() == "bearer"
    is_one = _NO_WORD.match(value[0]) or _is_key(value[0]) if is_bearer else _is_access(value[0])
    return NamedValue(*value.span(), value[0], 2) if is_one else None


def _is_access(word: str) -> bool:
    """Whether a word is a user and a password in base64."""
    try:
        access = b64decode(word + "=" * (-len(word) % 4), validate=True).decode()
    except ValueError:
        return False
    return ":" in access and access.isprintable()


def _of_name(found: re.Match[str]) -> NamedValue | None:
    text, name = found.string, found["option"] or found["name"]
    if not is_secret_name(name):
        return None
    scheme = _SCHEME.match(text, found.end())
    start = scheme.end() if scheme else found.end()
    may_be_pairs = name.lower() in _HEADERS and (not scheme or scheme["pairs"])
    if may_be_pairs and found["part"] is not None:
        pairs = _PAIRS_OF_HEADER["".join(set(found["part"]) & {"'", '"'})].match(text, start)
        if pairs is not None:
            return NamedValue(*pairs.span(), pairs[0], _strength(name, pairs[0], is_one=True))
    if not scheme and name.lower().endswith("authorization"):
        start = _after_any_scheme(text, start)
    value = _VALUE.match(text, start)
    bare = _SCHEME.sub("", value[0].strip("'\"\\"), count=1) if value else ""
    if value is None or says_none(bare) or not re.search(r"[^\W_]", bare):
        return None
    if _stands_for_another(bare):
        return NamedValue(*value.span(), bare, -1)
    is_option = found["option"] or len(found["dashes"]) > 1
    is_of_json = found["quote"] and value[0].lstrip("\\")[0] in "'\""
    is_of_query = text.endswith(("?", "&"), 0, found.start("name"))
    is_part = found["part"] is not None and _END_OF_PART.match(text, value.end())
    is_joined = is_part or found["sign"] == "=" or not found["blanks"]
    is_one = is_option or is_of_json or is_of_query or (is_joined and is_unmistakable(name))
    return NamedValue(*value.span(), bare, _strength(name, bare, is_one=bool(is_one)))


def _after_any_scheme(text: str, start: int) -> int:
    """Where the secret of an access begins, after a scheme of whatever name or at the start."""
    scheme = _ANY_SCHEME.match(text, start)
    value = _VALUE.match(text, scheme.end()) if scheme else None
    if scheme is None or value is None:
        return start
    ends = scheme["sure"] and (_END_OF_PART.match(text, value.end()) or _NO_WORD.match(value[0]))
    return scheme.end() if ends or _is_key(value[0]) else start


def _strength(name: str, value: str, *, is_one: bool) -> int:
    """That of a value, which by the way it is written is one or may be a word."""
    if _is_key(value) or (is_unmistakable(name) and _NO_WORD.match(value)):
        return 2
    return int(is_one)


def _is_key(value: str) -> bool:
    """Whether a value is a key by its looks, and no ordinary word, model or number."""
    is_drawn = _KEY.search(value) or any(_are_drawn(letters) for letters in _LETTERS.findall(value))
    return bool(is_drawn) or any(_is_issued(found) for found in _ISSUED_KEY.finditer(value))


def _is_issued(found: re.Match[str]) -> bool:
    drawn = found["drawn"] or "a1"  # other forms are those of no name
    return _are_drawn(drawn) if drawn.isalpha() else not drawn.isdigit()


def _are_drawn(letters: str) -> bool:
    """Whether 20 letters or more were drawn: words have more of the frequent ones, and 4 letters each.

    Example:
        >>> [_are_drawn(letters) for letters in ("aBcDeFgHiJkLmNoPqRsTuVwX", "qmxwzjrtbkdhqpfuvgcy")]
        [True, True]
        >>> [_are_drawn(letters) for letters in ("AutoModelForSequenceClassification", "internationalization")]
        [False, False]
    """
    frequent = len(re.findall("[aeilnorst]", letters, re.IGNORECASE))
    return frequent < 0.55 * len(letters) or len(letters) < 4 * len(words_of(letters))


def _stands_for_another(value: str) -> bool:
    return (_SAID_ELSEWHERE.fullmatch(value) or _TEMPLATE.fullmatch(value)) is not None
