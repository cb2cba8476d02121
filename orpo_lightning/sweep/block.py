"""A mapping of a YAML file whose mistakes are told with their line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

Word = TypeVar("Word", bound=str)


class Block:
    """A mapping, with the lines of its keys.

    Args:
        path: the file.
        name: the key of the mapping itself; empty at the top.
        node: what is there.
        loader: makes values of nodes.

    Raises:
        ValueError: it is no mapping, or has a key twice.
    """

    def __init__(self, path: Path, name: str, node: yaml.Node, loader: yaml.SafeLoader) -> None:
        self._path = path
        self._name = name
        self._loader = loader
        self._line = node.start_mark.line + 1
        self._nodes: dict[str, yaml.Node] = {}
        self._lines: dict[str, int] = {}
        if not isinstance(node, yaml.MappingNode):
            raise self.mistake("", "is not a mapping; accepted: keys with values, one a line")
        self._check_keys(node)
        try:
            loader.flatten_mapping(node)  # what a key << merges comes before what goes over it
        except yaml.YAMLError as error:
            raise self.mistake("<<", f"cannot be merged: {getattr(error, 'problem', error)}") from error
        for key, value in node.value:
            self._nodes[key.value], self._lines[key.value] = value, key.start_mark.line + 1

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Insist that each key is a text, and there once."""
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._line = line
                raise self.mistake("", "has a key that is a list or mapping; accepted: texts as keys")
            first = self._lines.get(key.value)
            self._lines[key.value] = line
            if first is not None:
                raise self.mistake(key.value, f"is set in line {first} already; keep one")

    def __contains__(self, key: str) -> bool:
        return key in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def mistake(self, key: str, what: str) -> ValueError:
        """The error of a key of this mapping, or of the mapping itself where the key is empty."""
        name = ".".join(filter(None, (self._name, key))) or "the file"
        return ValueError(f"{self._path}:{self._lines.get(key, self._line)}: {name} {what}")

    def only(self, known: Collection[str], refused: Collection[str] = ()) -> None:
        """Refuse every other key.

        Args:
            known: those that are accepted.
            refused: those that the format has, and a sweep here cannot follow.

        Raises:
            ValueError: there is another one; names the nearest that is accepted.
        """
        accepted = f"accepted: {', '.join(known)}"
        for key in self:
            if key in refused:
                raise self.mistake(key, f"is not supported without an account; {accepted}")
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise self.mistake(key, f"is not a key of it; {f'did you mean {near[0]}? ' if near else ''}{accepted}")

    def block(self, key: str) -> Block:
        """The mapping under a key."""
        return Block(self._path, ".".join(filter(None, (self._name, key))), self._nodes[key], self._loader)

    def value(self, key: str) -> Any:
        """Whatever is under a key; None where there is nothing."""
        if key not in self:
            return None
        try:
            return self._loader.construct_object(self._nodes[key], deep=True)
        except yaml.YAMLError as error:
            raise self.mistake(key, f"cannot be read: {getattr(error, 'problem', error)}") from error

    def text(self, key: str) -> str:
        """The text under a key; empty where there is none."""
        value = self.value(key)
        if value is not None and not isinstance(value, str):
            raise self.mistake(key, f"= {value!r} is not a text; accepted: a text, in quotes where it looks otherwise")
        return value or ""

    def one_of(self, key: str, accepted: Sequence[Word], default: str) -> Word:
        """The word under a key."""
        value = self.text(key) or default
        if value not in accepted:
            raise self.mistake(key, f"= {value} is not one; accepted: {', '.join(accepted)}")
        return accepted[accepted.index(value)]  # the same, by the type of those that are accepted

    def number(self, key: str) -> float:
        """The number under a key, an int where it is written as one."""
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            hint = _as_number(value)
            raise self.mistake(key, f"= {value!r} is not a number{hint}; accepted: a number, such as 0.1 or 1.0e-6")
        return value

    def whole(self, key: str, least: int) -> int:
        """The whole number under a key."""
        value = self.number(key)
        if not isinstance(value, int) or value < least:
            raise self.mistake(key, f"= {value} is out of range; accepted: a whole number from {least} on")
        return value

    def above(self, key: str, bound: float, default: float) -> float:
        """The number under a key that has to be larger than another."""
        value = self.number(key) if key in self else default
        if not value > bound:
            raise self.mistake(key, f"= {value} is out of range; accepted: more than {bound:g}")
        return value


def _as_number(value: Any) -> str:
    """What YAML takes for a text: an exponent without a point."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return ""
    mantissa, _, exponent = str(value).partition("e")
    return f" in YAML (write {mantissa}.0e{exponent})" if exponent and "." not in mantissa else f" (write {number})"


def read_block(path: Path) -> Block:
    """The mapping of a YAML file.

    Args:
        path: the file.

    Raises:
        ValueError: it is not YAML, or no mapping; names the line.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = ", ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None)))) or str(error)
        raise ValueError(f"{where}: not valid YAML: {what}") from error
    if node is None:
        raise ValueError(f"{path}: the file is empty; accepted: a sweep file of Weights & Biases")
    return Block(path, "", node, loader)
