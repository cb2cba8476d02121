"""The formats of a row: how each is recognised by its columns, and read as a preference pair."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orpo_lightning.records import Message, PreferencePair

Row = Mapping[str, Any]

_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class RowError(ValueError):
    """A row that cannot be read as a pair. `reason` is the name it is counted under."""

    def __init__(self, reason: str, row_id: str, detail: str) -> None:
        super().__init__(f"{row_id}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class RowFormat:
    """A format of rows.

    Args:
        name: how it is called in reports and errors.
        columns: what its rows hold, in words.
        matches: whether a row is of this format, told from one row.
        parse: a row and its id to a pair; raises :class:`RowError` for a row that is broken.
    """

    name: str
    columns: str
    matches: Callable[[Row], bool]
    parse: Callable[[Row, str], PreferencePair]


def detect_format(rows: Iterable[Row], source: str) -> RowFormat:
    """The format of a source: that of its first row which is of one of `FORMATS`.

    Raises:
        ValueError: no row is; lists the columns and what each format wants.

    Example:
        >>> detect_format([{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}], "example").name
        'text'
    """
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
        for row_format in FORMATS:
            if row_format.matches(row):
                return row_format
    known = "\n".join(f"  {row_format.name}: {row_format.columns}" for row_format in FORMATS)
    raise ValueError(f"{source}: no row is of a known format; the columns are {', '.join(columns)}. Known:\n{known}")


def _is_hh_rlhf(row: Row) -> bool:
    return all(isinstance(row.get(side), str) and _TURN.match(row[side]) for side in ("chosen", "rejected"))


def parse_hh_rlhf(row: Row, row_id: str) -> PreferencePair:
    r"""Read raw HH-RLHF text: turns that start with ``\n\nHuman:`` or ``\n\nAssistant:``; the last is the response.

    Example:
        >>> row = {side: f"\n\nHuman: Hi\n\nAssistant: {side}" for side in ("chosen", "rejected")}
        >>> pair = parse_hh_rlhf(row, "a:1")
        >>> pair.prompt, pair.rejected
        ((Message(role='user', content='Hi'),), 'rejected')
    """
    return _pair_of_conversations(row, row_id, _hh_rlhf_turns)


def _is_messages(row: Row) -> bool:
    return all(
        isinstance(row.get(side), Sequence) and not isinstance(row[side], str) and len(row[side]) > 0
        and all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in row[side])
        for side in ("chosen", "rejected")
    )  # fmt: skip


def parse_messages(row: Row, row_id: str) -> PreferencePair:
    """Read whole conversations as lists of role and content (UltraFeedback-binarized); the last turn is the response.

    Example:
        >>> turns = [{"role": "user", "content": "Hi"}]
        >>> pair = parse_messages({
        ...     "chosen": [*turns, {"role": "assistant", "content": "Hello!"}], "score_chosen": 8.0,
        ...     "rejected": [*turns, {"role": "assistant", "content": "What?"}], "score_rejected": 3.0}, "a:1")
        >>> pair.chosen, pair.margin
        ('Hello!', 5.0)
    """
    return _pair_of_conversations(row, row_id, _messages)


def _is_text(row: Row) -> bool:
    return all(isinstance(row.get(column), str) for column in ("prompt", "chosen", "rejected"))


def parse_text(row: Row, row_id: str) -> PreferencePair:
    """Read a prompt and two responses as text; the prompt is one user turn.

    Example:
        >>> parse_text({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}, "a:1").prompt
        (Message(role='user', content='Hi'),)
    """
    prompt, chosen, rejected = (_text(row.get(column), column, row_id) for column in ("prompt", "chosen", "rejected"))
    return _pair(row, row_id, (Message("user", prompt),), chosen, rejected)


def _text(value: Any, where: str, row_id: str) -> str:
    if not isinstance(value, str):
        raise RowError("not_text", row_id, f"{where!r} is {type(value).__name__}, not text")
    return value


def _hh_rlhf_turns(value: Any, side: str, row_id: str) -> list[Message]:
    # ["", speaker, text, speaker, text, ...]
    before, *parts = _TURN.split(_text(value, side, row_id))
    if before.strip() and parts:
        raise RowError("text_before_first_turn", row_id, f"{side!r} begins with {before[:40]!r} and not with a turn")
    return [Message(_SPEAKERS[speaker], text.strip()) for speaker, text in zip(parts[::2], parts[1::2], strict=True)]


def _messages(value: Any, side: str, row_id: str) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError("not_text", row_id, f"{side!r} is {type(value).__name__}, not a list of messages")
    if not all(isinstance(turn, Mapping) for turn in value):
        raise RowError("not_text", row_id, f"{side!r} holds something that is not a message of role and content")
    turns = [dict(turn) for turn in value]
    if turns and turns[-1].get("content") is None:
        turns[-1]["content"] = ""  # a response that is null is an empty one, for the filters to count
    return [Message(*(_text(turn.get(key), f"{side}: {key}", row_id) for key in ("role", "content"))) for turn in turns]


def _pair_of_conversations(row: Row, row_id: str, turns_of: Callable[[Any, str, str], list[Message]]) -> PreferencePair:
    conversations = []
    for side in ("chosen", "rejected"):
        turns = turns_of(row.get(side), side, row_id)
        if len(turns) < 2 or turns[-1].role != "assistant":
            raise RowError("no_response", row_id, f"{side!r} does not end with an assistant turn after another one")
        conversations.append(turns)
    (*prompt, chosen), (*other, rejected) = conversations
    if prompt != other:
        raise RowError("different_prompts", row_id, "chosen and rejected do not answer the same prompt")
    return _pair(row, row_id, tuple(prompt), chosen.content, rejected.content)


def _pair(row: Row, row_id: str, prompt: tuple[Message, ...], chosen: str, rejected: str) -> PreferencePair:
    scores = [row.get("score_chosen"), row.get("score_rejected")]
    margin = None
    if None not in scores:
        try:
            margin = float(scores[0]) - float(scores[1])  # type: ignore[arg-type]  # what float refuses is caught
        except (TypeError, ValueError):
            detail = f"the scores {scores[0]!r} and {scores[1]!r} are not both numbers"
            raise RowError("score_not_a_number", row_id, detail) from None
    return PreferencePair(row_id, prompt, chosen, rejected, margin)


FORMATS = (
    RowFormat(
        "hh_rlhf", "chosen and rejected, text that starts with '\\n\\nHuman:' (raw HH-RLHF)", _is_hh_rlhf, parse_hh_rlhf
    ),
    RowFormat(
        "messages",
        "chosen and rejected, lists of {role, content} (UltraFeedback-binarized)",
        _is_messages,
        parse_messages,
    ),
    RowFormat("text", "prompt, chosen and rejected, text", _is_text, parse_text),
)
