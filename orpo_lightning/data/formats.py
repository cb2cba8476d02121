"""The formats of a row: how each is recognised by its columns, and read as a prompt with its responses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orpo_lightning.records import Message, Role, TextResponse, TextRow

Row = Mapping[str, Any]

COLUMNS = (
    "prompt", "chosen", "rejected", "messages", "conversations", "completion", "label", "system",
    "score_chosen", "score_rejected", "margin", "weight",
)  # fmt: skip
"""The columns that formats read; `data.columns` gives them other names."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_RLHF_ROLES = {"Human": "user", "Assistant": "assistant"}
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "observation": "tool", "tool": "tool",
}  # fmt: skip


class RowError(ValueError):
    """A row that cannot be read. `reason` is the name it is counted under."""

    def __init__(self, reason: str, row_id: str, detail: str) -> None:
        super().__init__(f"{row_id}: {detail}")
        self.row_id = row_id
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class RowFormat:
    """A format of rows.

    Args:
        name: how it is called in configurations, reports and errors.
        columns: what its rows hold, in words.
        matches: whether a row is of this format, told from one row.
        parse: a row and its id to text; raises :class:`RowError` for a row that is broken.
    """

    name: str
    columns: str
    matches: Callable[[Row], bool]
    parse: Callable[[Row, str], TextRow]


def find_format(rows: Iterable[Row], source: str, name: str | None = None) -> RowFormat:
    """The format of a source: that of its first row which is of one of `FORMATS`, or the one that is named.

    No row is of two formats: they differ in their columns, or in whether a column holds text or turns.

    Raises:
        ValueError: no row is, or no format has the name; lists the columns and what each format wants.

    Example:
        >>> find_format([{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}], "example").name
        'text'
    """
    if name is not None:
        found = next((row_format for row_format in FORMATS if row_format.name == name), None)
        if found is None:
            raise ValueError(f"data.format = {name!r}; accepted: {', '.join(each.name for each in FORMATS)}")
        return found
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
        for row_format in FORMATS:
            if row_format.matches(row):
                return row_format
    known = "\n".join(f"  {row_format.name}: {row_format.columns}" for row_format in FORMATS)
    raise ValueError(
        f"{source}: no row is of a known format; the columns are {', '.join(columns)}. Columns of other names are "
        f"mapped by data.columns, for example {{prompt: question}}. Known:\n{known}"
    )


def rename_columns(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with columns of other names under ours; `columns` maps our name to that of the data.

    Example:
        >>> rename_columns({"question": "Hi", "id": 3}, {"prompt": "question"})
        {'id': 3, 'prompt': 'Hi'}
    """
    theirs = set(columns.values())
    kept = {name: value for name, value in row.items() if name not in theirs}
    return kept | {ours: row[name] for ours, name in columns.items() if name in row}


def parse_hh_rlhf(row: Row, row_id: str) -> TextRow:
    r"""Read raw HH-RLHF text: turns that start with ``\n\nHuman:`` or ``\n\nAssistant:``; the last is the response.

    Example:
        >>> row = {side: f"\n\nHuman: Hi\n\nAssistant: {side}" for side in ("chosen", "rejected")}
        >>> found = parse_hh_rlhf(row, "a:1")
        >>> found.prompt, found.rejected
        ((Message(role='user', content='Hi'),), 'rejected')
    """
    return _pair(row, row_id, _hh_rlhf_turns)


def parse_messages(row: Row, row_id: str) -> TextRow:
    """Read pairs of conversations as lists of role and content; the last turn of each is the response.

    The prompt is what comes before it. A side that holds the response alone takes the prompt from the column
    ``prompt``, which is a list of messages or the text of a user's turn.

    Example:
        >>> turns = [{"role": "user", "content": "Hi"}]
        >>> found = parse_messages({
        ...     "chosen": [*turns, {"role": "assistant", "content": "Hello!"}], "score_chosen": 8.0,
        ...     "rejected": [*turns, {"role": "assistant", "content": "What?"}], "score_rejected": 3.0}, "a:1")
        >>> found.chosen, found.margin
        ('Hello!', 5.0)
    """
    return _pair(row, row_id, _messages_after_prompt)


def parse_sharegpt(row: Row, row_id: str) -> TextRow:
    """Read a conversation of ``{from, value}`` turns with a chosen and a rejected next turn.

    Example:
        >>> found = parse_sharegpt({
        ...     "conversations": [{"from": "human", "value": "Hi"}],
        ...     "chosen": {"from": "gpt", "value": "Hello!"}, "rejected": {"from": "gpt", "value": "What?"}}, "a:1")
        >>> found.prompt, found.rejected
        ((Message(role='user', content='Hi'),), 'What?')
    """
    return _pair(row, row_id, _sharegpt_turns)


def parse_text(row: Row, row_id: str) -> TextRow:
    """Read a prompt and two responses as text; the prompt is one user turn.

    Example:
        >>> parse_text({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}, "a:1").prompt
        (Message(role='user', content='Hi'),)
    """
    return _pair(row, row_id, _text_turns)


def parse_unpaired(row: Row, row_id: str) -> TextRow:
    """Read a single response with a label that says whether it is desirable (KTO).

    It is the last turn of ``messages``, or ``completion`` after ``prompt``, each as text or as a list of messages.

    Example:
        >>> found = parse_unpaired({"prompt": "Hi", "completion": "Hello!", "label": True}, "a:1")
        >>> found.responses
        (TextResponse(text='Hello!', role=<Role.UNPAIRED: 2>, label=1.0),)
    """
    if row.get("messages") is not None:
        turns = messages_of(row["messages"], "messages", row_id)
    elif isinstance(row.get("completion"), Sequence) and not isinstance(row["completion"], str):
        turns = _messages_after_prompt(row, "completion", row_id)
    else:
        turns = _text_turns(row, "completion", row_id)
    *prompt, response = with_system(row, _conversation(turns, "messages", row_id), row_id)
    label = TextResponse(response.content, Role.UNPAIRED, _label(row, row_id))
    return TextRow(row_id, tuple(prompt), (label,), weight=_weight(row, row_id))


def _pair(row: Row, row_id: str, turns_of: Callable[[Row, str, str], list[Message]]) -> TextRow:
    sides = [_conversation(turns_of(row, side, row_id), side, row_id) for side in ("chosen", "rejected")]
    (*prompt, chosen), (*other, rejected) = (with_system(row, turns, row_id) for turns in sides)
    if prompt != other:
        raise RowError("different_prompts", row_id, "chosen and rejected do not answer the same prompt")
    return TextRow.pair(
        row_id,
        tuple(prompt),
        chosen.content,
        rejected.content,
        margin=_margin(row, row_id),
        weight=_weight(row, row_id),
    )


def _conversation(turns: list[Message], where: str, row_id: str) -> list[Message]:
    if len(turns) < 2 or turns[-1].role != "assistant":
        raise RowError("no_response", row_id, f"{where!r} does not end with an assistant turn after another one")
    return turns


def with_system(row: Row, turns: list[Message], row_id: str) -> list[Message]:
    """The turns, after that of the column ``system`` if there is one.

    Raises:
        RowError: they begin with another system turn.
    """
    if row.get("system") in (None, ""):
        return turns
    system = Message("system", _text(row, "system", row_id))
    if turns[0].role != "system":
        return [system, *turns]
    if _stripped(turns[:1]) != _stripped([system]):
        raise RowError("two_system_turns", row_id, "the column 'system' is another than the system turn of the row")
    return turns


def _hh_rlhf_turns(row: Row, side: str, row_id: str) -> list[Message]:
    # ["", speaker, text, speaker, text, ...]
    before, *parts = _TURN.split(_text(row, side, row_id))
    if before.strip() and parts:
        raise RowError("text_before_first_turn", row_id, f"{side!r} begins with {before[:40]!r} and not with a turn")
    return [Message(_HH_RLHF_ROLES[who], text.strip()) for who, text in zip(parts[::2], parts[1::2], strict=True)]


def _messages_after_prompt(row: Row, side: str, row_id: str) -> list[Message]:
    turns = messages_of(_value(row, side, row_id), side, row_id)
    if not turns or turns[-1].role != "assistant" or row.get("prompt") is None:
        return turns
    if _is_list(row["prompt"]):
        prompt = messages_of(row["prompt"], "prompt", row_id)
        is_there = _stripped(turns[: len(prompt)]) == _stripped(prompt)
    else:
        prompt = [Message("user", _text(row, "prompt", row_id))]
        # as text it may be one turn of several, or hold several of them rendered
        said = [message.content.strip() for message in turns[:-1] if message.role == "user"]
        is_there = any(turn and (turn in prompt[0].content or prompt[0].content.strip() in turn) for turn in said)
    if is_there:
        return turns
    if turns[0].role == "assistant":
        return prompt + turns
    if turns[0].role == "system" and turns[1].role == "assistant" and prompt[0].role != "system":
        return turns[:1] + prompt + turns[1:]
    if all(message.role != "user" for message in prompt):
        return prompt + turns
    raise RowError(
        "different_prompts", row_id, f"{side!r} neither begins with the column 'prompt' nor goes on after it"
    )


def _stripped(turns: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content.strip()) for message in turns]


def _sharegpt_turns(row: Row, side: str, row_id: str) -> list[Message]:
    turns = [*_list(_value(row, "conversations", row_id), "conversations", row_id), _value(row, side, row_id)]
    found = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise RowError("not_text", row_id, f"{side!r} or 'conversations' holds a turn that is {_kind(turn)}")
        role = _SHAREGPT_ROLES.get(str(turn.get("from")))
        if role is None:
            known = ", ".join(_SHAREGPT_ROLES)
            raise RowError("unknown_role", row_id, f"a turn is from {turn.get('from')!r}; known: {known}")
        found.append(Message(role, _text(turn, "value", row_id)))
    return found


def _text_turns(row: Row, side: str, row_id: str) -> list[Message]:
    return [Message("user", _text(row, "prompt", row_id)), Message("assistant", _response_text(row, side, row_id))]


def messages_of(value: Any, where: str, row_id: str) -> list[Message]:
    """A list of role and content as messages; content that is null at the end is empty.

    Raises:
        RowError: it is something else.
    """
    found = []
    turns = _list(value, where, row_id)
    for place, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            raise RowError("not_text", row_id, f"{where!r} holds something that is not a message of role and content")
        role = _text(turn, "role", row_id)
        if role not in _ROLES:
            raise RowError("unknown_role", row_id, f"a turn of {where!r} is from {role!r}; known: {', '.join(_ROLES)}")
        if turn.get("tool_calls"):
            raise RowError("tool_calls", row_id, f"a turn of {where!r} calls tools, and its calls are not text")
        content = (_response_text if place == len(turns) else _text)(turn, "content", row_id)
        found.append(Message(role, content))
    return found


def _response_text(row: Row, column: str, row_id: str) -> str:
    # a response that is null is an empty one, for the filters to count
    return "" if column in row and row[column] is None else _text(row, column, row_id)


def _value(row: Row, column: str, row_id: str) -> Any:
    if column not in row:
        raise RowError("missing_column", row_id, f"there is no {column!r}; there is {', '.join(row) or 'nothing'}")
    if row[column] is None:
        raise RowError("null", row_id, f"{column!r} is null")
    return row[column]


def _text(row: Row, column: str, row_id: str) -> str:
    value = _value(row, column, row_id)
    if not isinstance(value, str):
        raise RowError("not_text", row_id, f"{column!r} is {_kind(value)}, not text")
    if not value.isascii() and _SURROGATE.search(value):
        raise RowError("not_text", row_id, f"{column!r} holds half of a surrogate pair, which is no character")
    return value


def _list(value: Any, where: str, row_id: str) -> Sequence[Any]:
    if not _is_list(value):
        raise RowError("not_text", row_id, f"{where!r} is {_kind(value)}, not a list of messages")
    found: Sequence[Any] = value
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _margin(row: Row, row_id: str) -> float | None:
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


def _weight(row: Row, row_id: str) -> float:
    if row.get("weight") is None:
        return 1.0
    weight = _number(row, "weight", row_id)
    if weight < 0:
        raise RowError("not_a_weight", row_id, f"'weight' is {weight:g}; accepted: a number from 0 on")
    return weight


def _label(row: Row, row_id: str) -> float:
    value = _value(row, "label", row_id)
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


def _is_hh_rlhf(row: Row) -> bool:
    return all(isinstance(row.get(side), str) and _TURN.match(row[side]) for side in ("chosen", "rejected"))


def _is_messages(row: Row) -> bool:
    return all(_holds_messages(row.get(side)) for side in ("chosen", "rejected"))


def _holds_messages(value: Any) -> bool:
    return (
        _is_list(value)
        and len(value) > 0
        and all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in value)
    )


def _is_sharegpt(row: Row) -> bool:
    return _is_list(row.get("conversations")) and all(
        isinstance(row.get(side), Mapping) and {"from", "value"} <= set(row[side]) for side in ("chosen", "rejected")
    )


def _is_text(row: Row) -> bool:
    # raw HH-RLHF text beside a prompt is still raw HH-RLHF text
    return all(isinstance(row.get(column), str) for column in ("prompt", "chosen", "rejected")) and not _is_hh_rlhf(row)


def _is_unpaired(row: Row) -> bool:
    response = _holds_messages(row.get("messages")) or ("prompt" in row and row.get("completion") is not None)
    is_pair = row.get("chosen") is not None or row.get("rejected") is not None
    return row.get("label") is not None and response and not is_pair


FORMATS = (
    RowFormat("text", "prompt, chosen and rejected, text", _is_text, parse_text),
    RowFormat(
        "messages",
        "chosen and rejected, lists of {role, content}; with or without prompt (UltraFeedback-binarized, TRL)",
        _is_messages,
        parse_messages,
    ),
    RowFormat(
        "hh_rlhf", "chosen and rejected, text that starts with '\\n\\nHuman:' (raw HH-RLHF)", _is_hh_rlhf, parse_hh_rlhf
    ),
    RowFormat(
        "sharegpt",
        "conversations, chosen and rejected, turns of {from, value} (ShareGPT)",
        _is_sharegpt,
        parse_sharegpt,
    ),
    RowFormat(
        "unpaired",
        "messages, or prompt and completion, with a label of true or false (KTO)",
        _is_unpaired,
        parse_unpaired,
    ),
)
