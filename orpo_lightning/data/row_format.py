"""What a format is, and how a user adds one."""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from orpo_lightning.data.columns import Row, RowError
from orpo_lightning.data.user_code import snake_case, sources_of
from orpo_lightning.records import TextRow


@dataclass(frozen=True)
class RowFormat:
    """A format of rows.

    Args:
        name: how it is called in configurations, reports and errors.
        columns: what its rows hold, in words.
        matches: whether a row is of this format, told from one row.
        parse: a row and its id to text; raises :class:`RowError` for a row that is broken.
        identity: what its rows are known by beyond the code of this package.
    """

    name: str
    columns: str
    matches: Callable[[Row], bool]
    parse: Callable[[Row, str], TextRow]
    identity: str = ""


class Format(ABC):
    """Reads rows of columns that no other format has. Subclass it, and name the class in ``data.format``.

    It is made without arguments. Rows are never taken for one of it unless it is named.

    Example:
        >>> from orpo_lightning import Message
        >>> class Ranked(Format):
        ...     def parse(self, row: Row, row_id: str) -> TextRow:
        ...         if len(row["answers"]) < 2:
        ...             raise RowError("one_answer", row_id, "there is nothing to compare the answer with")
        ...         best, *_, worst = row["answers"]
        ...         return TextRow.pair(row_id, (Message("user", row["question"]),), best, worst)
        >>> Ranked().parse({"question": "Hi", "answers": ["Hello!", "What?"]}, "a:1").rejected
        'What?'
    """

    @property
    def name(self) -> str:
        """What it is called in reports: the name of the class in snake case."""
        return snake_case(type(self))

    @abstractmethod
    def parse(self, row: Row, row_id: str) -> TextRow:
        """A row as text.

        Args:
            row: its columns, with those of ``data.columns`` renamed.
            row_id: where it came from, ``file:row``.

        Raises:
            RowError: the row cannot be read; it is dropped, and counted under the reason.
        """


def own_format(path: str) -> RowFormat:
    """The format of a user.

    Args:
        path: that of a subclass of :class:`Format`, such as ``my_formats.Ranked``.

    Raises:
        ValueError: there is none.
    """
    module, _, attribute = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), attribute, None)
    except (ModuleNotFoundError, ValueError) as error:
        raise ValueError(f"data.format = {path!r} cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Format)) or inspect.isabstract(cls):
        raise ValueError(f"data.format = {path!r} is not a subclass of orpo_lightning.Format that can be made")
    try:
        own = cls()
    except TypeError as error:
        raise ValueError(f"data.format = {path!r} is not made without arguments: {error}") from error

    def parse(row: Row, row_id: str) -> TextRow:
        try:
            found: object = own.parse(row, row_id)
        except RowError:
            raise
        except Exception as error:  # whatever the code of a user raises
            raise ValueError(f"{row_id}: the format {own.name} failed: {type(error).__name__}: {error}") from error
        if not isinstance(found, TextRow):
            raise ValueError(f"{row_id}: the format {own.name} returned {type(found).__name__}; accepted: a TextRow")
        return found

    return RowFormat(own.name, "those of its own", lambda row: False, parse, f"{path} {sources_of(cls, Format)}")
