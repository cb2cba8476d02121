"""The formats of a row: how each is recognised by its columns, and read as a prompt with its responses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orpo_lightning.data.columns import (
    Row,
    RowError,
    is_list,
    kind_of,
    label_of,
    list_of,
    margin_of,
    response_text,
    text_of,
    value_of,
    weight_of,
)
from orpo_lightning.data.row_format import RowFormat, own_format
from orpo_lightning.one_line import in_line
from orpo_lightning.records import Message, Role, TextResponse, TextRow

_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_RLHF_ROLES = {"Human": "user", "Assistant": "assistant"}
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "observation": "tool", "tool": "tool",
}  # fmt: skip


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
        return format_named(name)
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
        for row_format in FORMATS:
            if row_format.matches(row):
                return row_format
    known = "\n".join(f"  {row_format.name}: {row_format.columns}" for row_format in FORMATS)
    raise ValueError(
        f"{source}: no row is of a known format; the columns are {in_line(', '.join(columns))}. Columns of other names "
        f"are mapped by data.columns, for example {{prompt: question}}. Known:\n{known}"
    )


def format_named(name: str) -> RowFormat:
    """The format of a name, or of the path of a :class:`~orpo_lightning.Format` of a user (``my_formats.Ranked``).

    Raises:
        ValueError: there is none; lists those that there are.
    """
    if "." in name:
        return own_format(name)
    found = next((row_format for row_format in FORMATS if row_format.name == name), None)
    if found is None:
        known = ", ".join(each.name for each in FORMATS)
        raise ValueError(f"data.format = {name!r}; accepted: {known}, or the path of a format of your own")
    return found


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
    label = TextResponse(response.content, Role.UNPAIRED, label_of(row, row_id))
    return TextRow(row_id, tuple(prompt), (label,), weight=weight_of(row, row_id))


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
        margin=margin_of(row, row_id),
        weight=weight_of(row, row_id),
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
    system = Message("system", text_of(row, "system", row_id))
    if turns[0].role != "system":
        return [system, *turns]
    if _stripped(turns[:1]) != _stripped([system]):
        raise RowError("two_system_turns", row_id, "the column 'system' is another than the system turn of the row")
    return turns


def _hh_rlhf_turns(row: Row, side: str, row_id: str) -> list[Message]:
    # ["", speaker, text, speaker, text, ...]
    before, *parts = _TURN.split(text_of(row, side, row_id))
    if before.strip() and parts:
        raise RowError("text_before_first_turn", row_id, f"{side!r} begins with {before[:40]!r} and not with a turn")
    return [Message(_HH_RLHF_ROLES[who], text.strip()) for who, text in zip(parts[::2], parts[1::2], strict=True)]


def _messages_after_prompt(row: Row, side: str, row_id: str) -> list[Message]:
    turns = messages_of(value_of(row, side, row_id), side, row_id)
    if not turns or turns[-1].role != "assistant" or row.get("prompt") is None:
        return turns
    prompt = row["prompt"]
    asked = (
        messages_of(prompt, "prompt", row_id) if is_list(prompt) else [Message("user", text_of(row, "prompt", row_id))]
    )
    (system, turns), (own_system, asked) = _without_system(turns), _without_system(asked)
    if system and own_system and _stripped(system) != _stripped(own_system):
        raise RowError("two_system_turns", row_id, f"the system turn of 'prompt' is another than that of {side!r}")
    system = system or own_system
    if _stripped(turns[: len(asked)]) == _stripped(asked) or (isinstance(prompt, str) and _says(turns, prompt)):
        return system + turns
    if turns[0].role == "assistant":
        return system + asked + turns
    raise RowError(
        "different_prompts", row_id, f"{side!r} neither begins with the column 'prompt' nor goes on after it"
    )


def _without_system(turns: list[Message]) -> tuple[list[Message], list[Message]]:
    count = int(bool(turns) and turns[0].role == "system")
    return turns[:count], turns[count:]


def _says(turns: Sequence[Message], prompt: str) -> bool:
    """Whether a prompt that is text is one of the user's turns or a part of one, or holds all of them, rendered."""
    said = [turn.content.strip() for turn in turns[:-1] if turn.role == "user"]
    if any(_holds(turn, prompt.strip()) for turn in said):
        return True
    return bool(said) and all(_holds(prompt, turn) for turn in said)


def _holds(text: str, part: str) -> bool:
    # in whole words
    return bool(part) and re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


def _stripped(turns: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content.strip()) for message in turns]


def _sharegpt_turns(row: Row, side: str, row_id: str) -> list[Message]:
    turns = [*list_of(value_of(row, "conversations", row_id), "conversations", row_id), value_of(row, side, row_id)]
    found = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise RowError("not_text", row_id, f"{side!r} or 'conversations' holds a turn that is {kind_of(turn)}")
        role = _SHAREGPT_ROLES.get(str(turn.get("from")))
        if role is None:
            known = ", ".join(_SHAREGPT_ROLES)
            raise RowError("unknown_role", row_id, f"a turn is from {turn.get('from')!r}; known: {known}")
        found.append(Message(role, text_of(turn, "value", row_id)))
    return found


def _text_turns(row: Row, side: str, row_id: str) -> list[Message]:
    return [Message("user", text_of(row, "prompt", row_id)), Message("assistant", response_text(row, side, row_id))]


def messages_of(value: Any, where: str, row_id: str) -> list[Message]:
    """A list of role and content as messages; content that is null at the end is empty.

    Raises:
        RowError: it is something else.
    """
    found = []
    turns = list_of(value, where, row_id)
    for place, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            raise RowError("not_text", row_id, f"{where!r} holds something that is not a message of role and content")
        role = text_of(turn, "role", row_id)
        if role not in _ROLES:
            raise RowError("unknown_role", row_id, f"a turn of {where!r} is from {role!r}; known: {', '.join(_ROLES)}")
        if turn.get("tool_calls"):
            raise RowError("tool_calls", row_id, f"a turn of {where!r} calls tools, and its calls are not text")
        content = (response_text if place == len(turns) else text_of)(turn, "content", row_id)
        found.append(Message(role, content))
    return found


def _is_hh_rlhf(row: Row) -> bool:
    return all(isinstance(row.get(side), str) and _TURN.match(row[side]) for side in ("chosen", "rejected"))


def _is_messages(row: Row) -> bool:
    return all(_holds_messages(row.get(side)) for side in ("chosen", "rejected"))


def _holds_messages(value: Any) -> bool:
    return (
        is_list(value)
        and len(value) > 0
        and all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in value)
    )


def _is_sharegpt(row: Row) -> bool:
    return is_list(row.get("conversations")) and all(
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
