"""Filters: small named rules that say which rows are dropped, each counted under its name."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection

from orpo_lightning.data.user_code import snake_case, sources_of
from orpo_lightning.records import TextRow


class Filter(ABC):
    """Says which rows are dropped. Subclass it to add a rule; rows are counted under its name in snake case.

    A subclass stores the arguments of its ``__init__`` under their names: they are part of what the cache of
    tokenized rows is found by.

    Example:
        >>> class ShortChosen(Filter):
        ...     def __init__(self, words: int = 3) -> None:
        ...         self.words = words
        ...
        ...     def __call__(self, row: TextRow) -> bool:
        ...         return row.chosen is not None and len(row.chosen.split()) < self.words
        >>> ShortChosen().name, ShortChosen()(TextRow.pair("a:1", (), chosen="No.", rejected="Yes."))
        ('short_chosen', True)
    """

    @property
    def name(self) -> str:
        """What the rows it drops are counted under."""
        return snake_case(type(self))

    @property
    def rule(self) -> str:
        """What it says of the rows it drops: the first line of its docstring."""
        return (inspect.getdoc(type(self)) or self.name).partition("\n")[0].rstrip(".")

    @abstractmethod
    def __call__(self, row: TextRow) -> bool:
        """Whether to drop a row."""

    def begin(self, validation_prompts: Collection[str]) -> None:
        """Start a split.

        Args:
            validation_prompts: the :func:`prompt_key` of every validation row while the training data is filtered;
                empty while validation data is.
        """

    def identity(self) -> str:
        """What its verdicts are known by: its arguments, and the modules in which it and its bases are defined.

        Rows are kept under it. What those modules import is not a part of it, nor what the filter reads: one that reads
        a file adds its content to what this returns.

        Raises:
            ValueError: an argument of ``__init__`` is not stored under its name.
        """
        cls = type(self)
        try:
            arguments = {name: getattr(self, name) for name in inspect.signature(cls).parameters}
        except AttributeError as error:
            raise ValueError(
                f"filter {cls.__name__}: store each argument of __init__ under its name ({error})"
            ) from None
        return f"{cls.__module__}.{cls.__qualname__}({arguments!r}) {sources_of(cls, Filter)}"


def prompt_key(row: TextRow) -> str:
    """A short hash of the prompt, by which equal prompts are found."""
    return _hash(*(part for message in row.prompt for part in (message.role, message.content)))


def row_key(row: TextRow) -> str:
    """A short hash of the prompt and the responses, by which equal rows are found."""
    turns = [part for message in row.prompt for part in (message.role, message.content)]
    return _hash(*turns, "", *(response.text for response in row.responses))


def _hash(*parts: str) -> str:
    # the lengths keep ("ab", "c") and ("a", "bc") apart
    content = "".join((*(f"{len(part)}," for part in parts), *parts))
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class EmptyChosen(Filter):
    """The chosen response is empty or whitespace."""

    def __call__(self, row: TextRow) -> bool:
        return row.chosen is not None and not row.chosen.strip()


class EmptyRejected(Filter):
    """The rejected response is empty or whitespace."""

    def __call__(self, row: TextRow) -> bool:
        return row.rejected is not None and not row.rejected.strip()


class EmptyResponse(Filter):
    """The response of an unpaired row is empty or whitespace."""

    def __call__(self, row: TextRow) -> bool:
        return row.unpaired is not None and not row.unpaired.strip()


class IdenticalResponses(Filter):
    """Chosen and rejected are the same text."""

    def __call__(self, row: TextRow) -> bool:
        return row.chosen is not None and row.chosen == row.rejected


class Duplicates(Filter):
    """A row before it in its source has the same prompt and the same responses."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def begin(self, validation_prompts: Collection[str]) -> None:
        self._seen = set()

    def __call__(self, row: TextRow) -> bool:
        key = row_key(row)
        is_known = key in self._seen
        self._seen.add(key)
        return is_known


class SharedPrompts(Filter):
    """A validation row has the same prompt. Validation data itself is never filtered by it."""

    def __init__(self) -> None:
        self._validation_prompts: frozenset[str] = frozenset()

    def begin(self, validation_prompts: Collection[str]) -> None:
        self._validation_prompts = frozenset(validation_prompts)

    def __call__(self, row: TextRow) -> bool:
        return prompt_key(row) in self._validation_prompts

    def identity(self) -> str:
        return super().identity() + _hash(*sorted(self._validation_prompts))


class SmallMargin(Filter):
    """The score of the chosen response exceeds that of the rejected one by too little. Rows without scores stay.

    Args:
        least: smallest margin that is kept, in the units of the scores.
    """

    def __init__(self, least: float = 1.0) -> None:
        self.least = least

    def __call__(self, row: TextRow) -> bool:
        return row.margin is not None and row.margin < self.least


ALWAYS: tuple[type[Filter], ...] = (EmptyChosen, EmptyRejected, EmptyResponse, IdenticalResponses)
"""The filters that run first, whatever else is asked for: such rows say nothing about a preference."""
