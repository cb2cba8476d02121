"""Prompts to answer, from files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orpo_lightning.records import Message, Prompt

COLUMNS = ("prompt", "messages", "instruction")


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, in its order.

    Args:
        path: ``.txt`` (a prompt a line), or ``.json`` (a list) or ``.jsonl``, whose rows have one of the columns
            ``prompt`` (text, or a list of role and content), ``messages`` (a conversation; an answer at its end is
            left out) and ``instruction`` (text), looked for in this order.

    Raises:
        ValueError: the file cannot be read, or a row has no prompt; names file and line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "questions.txt")
        >>> _ = path.write_text("Name a colour.\\n")
        >>> read_prompts(path)[0].prompt
        (Message(role='user', content='Name a colour.'),)
    """
    read = _READERS.get(path.suffix)
    if read is None:
        raise ValueError(f"{path}: the file's kind is not known; accepted: {', '.join(_READERS)}")
    if not path.is_file():
        raise ValueError(f"no file at '{path}'; accepted: the path of a {', '.join(_READERS)} file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text in UTF-8: {error}") from error
    prompts = [Prompt(row_id, _conversation(row, row_id)) for row_id, row in read(text, path)]
    if not prompts:
        raise ValueError(f"{path}: holds no prompts")
    return prompts


def _text_rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    # not splitlines: a prompt may hold a line separator of Unicode
    for number, line in enumerate(text.rstrip("\n").split("\n") if text.strip() else [], start=1):
        yield f"{path}:{number}", {"prompt": line.removesuffix("\r")}


def _jsonl_rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _json(line, f"{path}:{number}")


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    rows = _json(text, str(path))
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds one {type(rows).__name__}; accepted: a list of rows")
    for number, row in enumerate(rows, start=1):
        yield f"{path}:{number}", row


_READERS = {".txt": _text_rows, ".json": _json_rows, ".jsonl": _jsonl_rows}


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: is not json: {error}") from error


def _conversation(row: Any, row_id: str) -> tuple[Message, ...]:
    column = next((name for name in COLUMNS if isinstance(row, Mapping) and row.get(name) is not None), None)
    if column is None:
        found = ", ".join(row) if isinstance(row, Mapping) else type(row).__name__
        raise ValueError(f"{row_id}: has none of the columns {', '.join(COLUMNS)}; it has: {found or 'none'}")
    value = row[column]
    if isinstance(value, str) and column != "messages":
        messages = [Message("user", value)]
    elif isinstance(value, list) and column != "instruction":
        messages = [_message(turn, f"{row_id}: {column}") for turn in value]
    else:
        wanted = {"prompt": "text or a list of messages", "messages": "a list of messages", "instruction": "text"}
        raise ValueError(f"{row_id}: {column!r} is {type(value).__name__}, not {wanted[column]}")
    if column == "messages" and messages and messages[-1].role == "assistant":
        messages.pop()
    if not any(message.content.strip() for message in messages):
        raise ValueError(f"{row_id}: the prompt is empty")
    return tuple(messages)


def _message(turn: Any, where: str) -> Message:
    if not (isinstance(turn, Mapping) and all(isinstance(turn.get(key), str) for key in ("role", "content"))):
        raise ValueError(f"{where}: holds {json.dumps(turn)[:80]}; accepted: messages with role and content, text")
    return Message(turn["role"], turn["content"])
