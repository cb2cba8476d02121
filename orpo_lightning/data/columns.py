"""The columns of a row: their names, and what they hold, or why they cannot be read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from orpo_lightning.one_line import in_line

Row = Mapping[str, Any]

COLUMNS = (
    "prompt", "chosen", "rejected", "messages", "conversations", "completion", "label", "system",
    "score_chosen", "score_rejected", "margin", "weight",
)  # fmt: skip
"""The columns that formats read; `data.columns` gives them other names."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class RowError(ValueError):
    """A row that cannot be read. `reason` is the name it is counted under."""

    def __init__(self, reason: str, row_id: str, detail: str) -> None:
        detail = in_line(detail)
        super().__init__(f"{row_id}: {detail}")
        self.row_id = row_id
        self.reason = reason
        self.detail = detail


def rename_columns(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with columns of other names under ours; `columns` maps our name to that of the data.

    Example:
        >>> rename_columns({"question": "Hi", "id": 3}, {"prompt": "question"})
        {'id': 3, 'prompt': 'Hi'}
    """
    theirs = set(columns.values())
    kept = {name: value for name, value in row.items() if name not in theirs}
    return kept | {ours: row[name] for ours, name in columns.items() if name in row}


def response_text(row: Row, column: str, row_id: str) -> str:
    """A column that holds a response; null is an empty one, for the filters to count."""
    return "" if column in row and row[column] is None else text_of(row, column, row_id)


def value_of(row: Row, column: str, row_id: str) -> Any:
    """A column that has to be there.

    Raises:
        RowError: it is not, or it is null.
    """
    if column not in row:
        raise RowError("missing_column", row_id, f"there is no {column!r}; there is {', '.join(row) or 'nothing'}")
    if row[column] is None:
        raise RowError("null", row_id, f"{column!r} is null")
    return row[column]


def text_of(row: Row, column: str, row_id: str) -> str:
    """A column that holds text.

    Raises:
        RowError: it holds something else.
    """
    value = value_of(row, column, row_id)
    if not isinstance(value, str):
        raise RowError("not_text", row_id, f"{column!r} is {kind_of(value)}, not text")
    if not value.isascii() and _SURROGATE.search(value):
        raise RowError("not_text", row_id, f"{column!r} holds half of a surrogate pair, which is no character")
    return value


def list_of(value: Any, where: str, row_id: str) -> Sequence[Any]:
    """A value that is a list of turns.

    Raises:
        RowError: it is something else.
    """
    if not is_list(value):
        raise RowError("not_text", row_id, f"{where!r} is {kind_of(value)}, not a list of messages")
    found: Sequence[Any] = value
    return found


def is_list(value: Any) -> bool:
    """Whether a value is a list, of JSON or of parquet."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def kind_of(value: Any) -> str:
    """What a value is, in a word for errors."""
    return "null" if value is None else type(value).__name__


def margin_of(row: Row, row_id: str) -> float | None:
    """The margin of a pair: its column, or the difference of its two scores; None where it has neither.

    Raises:
        RowError: one of them is no number.
    """
    margin = _score(row, "margin", row_id)
    if margin is not None:
        return margin
    chosen, rejected = _score(row, "score_chosen", row_id), _score(row, "score_rejected", row_id)
    if chosen is None or rejected is None:
        return None
    if not math.isfinite(chosen - rejected):
        raise RowError("not_a_number", row_id, f"the scores {chosen:g} and {rejected:g} have no finite difference")
    return chosen - rejected


def _score(row: Row, column: str, row_id: str) -> float | None:
    value = row.get(column)
    # NaN is what pandas writes where there is none
    return None if value is None or value != value else _number(row, column, row_id)


def weight_of(row: Row, row_id: str) -> float:
    """The weight of a row; 1 where it has none.

    Raises:
        RowError: it is no number from 0 on.
    """
    if row.get("weight") is None:
        return 1.0
    weight = _number(row, "weight", row_id)
    if weight < 0:
        raise RowError("not_a_weight", row_id, f"'weight' is {weight:g}; accepted: a number from 0 on")
    return weight


def label_of(row: Row, row_id: str) -> float:
    """Whether a response is desirable, as 1.0 or 0.0.

    Raises:
        RowError: its column holds something else.
    """
    value = value_of(row, "label", row_id)
    if value not in (True, False):  # 1, 0, 1.0 and 0.0 as well
        raise RowError("not_a_label", row_id, f"'label' is {value!r}; accepted: true or false")
    return float(value)


def _number(row: Row, column: str, row_id: str) -> float:
    try:
        value = float(row[column])
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise RowError("not_a_number", row_id, f"{column!r} is {str(row[column])[:40]!r}, not a finite number")
    return value
