"""What jsonargparse says of a mistake, taken apart: which key, of which class, and the reason.

Its messages follow the types that a value might have had, each with a level of indentation, and end with the value.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

_LONGEST = 80
"""Characters of a value that is shown."""
_NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value", "- Does not validate", "- Expected a path but")
_NOT_NONE = re.compile(r"Expected (?:an? )?<class 'NoneType'>")
_TELLING = (
    *("is not accepted", "unrecognized arguments", "does not accept option"),
    *("No module named", "typing.Literal", "Expected a dot import path", "Unable to load config", "Expected"),
)
"""What reasons hold, the most telling first; of several that tell as much it is the one that is deepest inside."""
_OF_THE_PARSER = (
    *("Expected a", "Not of type", "Not a valid", "Does not validate", "Problem with given"),
    *("a class path (str)", "a dict with"),
)


@dataclass(frozen=True)
class Reason:
    """Why a value was refused.

    Args:
        text: the reason.
        key: of the value, as far as it is known.
        class_path: the innermost class that it is an argument of; empty for none.
        class_key: the key of that class.
    """

    text: str
    key: str = ""
    class_path: str = ""
    class_key: str = ""


def reason_of(message: str) -> Reason:
    """The most telling of the reasons in a message.

    Example:
        >>> reason = reason_of('''Parser key "data":
        ...   Problem with given class_path 'my.Data':
        ...     Parser key "limit":
        ...       Expected a <class 'int'>. Got value: abc''')
        >>> reason.key, reason.class_path, reason.text
        ('data.limit', 'my.Data', "Expected a <class 'int'>. Got value: abc")
    """
    found = [reason for reason in _reasons(message) if not _NOT_NONE.match(reason.text)]

    def place(reason: Reason) -> tuple[int, int]:
        rank = next((i for i, sign in enumerate(_TELLING) if sign in reason.text), len(_TELLING))
        return rank, -reason.key.count(".")

    return min(found, key=place) if found else Reason(" ".join(message.split()))


def sentence_of(message: str) -> str:
    """The message of an error; of one that jsonargparse wraps around others, the one that is inside.

    Example:
        >>> sentence_of("data.limit = 0 is out of range")
        'data.limit = 0 is out of range'
    """
    if "Union subtypes" not in message:
        return message
    # one for each type that the value might have had, and among them what that of ours has to say
    reasons: list[str] = re.findall(r"^ *- (?:Problem with given .+:\n *)?(.+)$", message, flags=re.MULTILINE)
    ours = [each for each in reasons if not each.startswith(_OF_THE_PARSER)]
    return (ours or reasons or [message])[0]


def value_of(message: str) -> str:
    """The value that a message says was given, as far inside as it knows."""
    found = re.findall(r"Got value: (.+)", message)
    found += [
        re.sub(r"NestedArg\(key=.*?, val=(.*)\)$", r"\1", each) for each in re.findall(r"Given value: (.+)", message)
    ]
    value = found[0].strip().strip("'\"") if found else ""
    return "null" if value == "None" else textwrap.shorten(value, _LONGEST, placeholder=" …")


def types_of(message: str) -> list[str]:
    """The names of the plain types that would have been accepted at the place of the most telling reason."""
    return _expected(message, r"Expected (?:an? )?<class '(?:[\w.]*\.)?(\w+)'>")


def choices_of(message: str) -> list[str]:
    """The values that would have been accepted there."""
    found = _expected(message, r"Expected an? typing\.Literal\[(.*?)\]")
    return list(dict.fromkeys(each.strip(" '") for choices in found for each in choices.split(",")))


def _expected(message: str, pattern: str) -> list[str]:
    key = reason_of(message).key
    found = [re.match(pattern, each.text) for each in _reasons(message) if each.key == key]
    return list(dict.fromkeys(each[1] for each in found if each))


def _reasons(message: str) -> list[Reason]:
    found = []
    levels: list[tuple[int, Reason]] = []
    for line in message.splitlines():
        text = line.strip()
        if not text or text.startswith(_NOISE):
            continue
        indent, is_item = len(line) - len(line.lstrip()), text.startswith("- ")
        text = text.removeprefix("- ")
        indent += 2 * is_item
        levels = [level for level in levels if level[0] < indent or (level[0] == indent and not is_item)]
        outer = levels[-1][1] if levels else Reason("")
        key = re.match(r'Parser key "([^"]*)": *(.*)', text)
        cls = re.match(r"Problem with given class_path '([^']*)': *(.*)", text)
        if key:
            outer = Reason("", _joined(outer, key[1]), outer.class_path, outer.class_key)
        elif cls:
            outer = Reason("", outer.key, cls[1], outer.key)
        rest = key[2] if key else cls[2] if cls else text
        if key or cls:
            levels.append((indent, outer))
        if rest:
            found.append(Reason(rest, outer.key, outer.class_path, outer.class_key))
    return found


def _joined(outer: Reason, key: str) -> str:
    """Keys inside a class are relative to it, and those of a block are said again in full."""
    start = outer.class_key
    full = f"{start}.{key}" if start else key
    return outer.key if outer.key.endswith(full) else full
