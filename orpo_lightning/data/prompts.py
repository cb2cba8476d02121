"""Prompts to answer, from files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orpo_lightning.data.columns import Row
from orpo_lightning.data.files import KINDS, read_file
from orpo_lightning.data.formats import messages_of, with_system
from orpo_lightning.records import Message, Prompt

COLUMNS = ("prompt", "messages", "instruction")
_TEXT = ".txt"


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, in its order.

    Args:
        path: ``.txt`` (a prompt a line; blank lines are left out), or a json, jsonl (both also gzipped) or parquet file
            whose rows have one of the columns ``prompt`` (text, or a list of role and content), ``messages`` (a
            conversation; an answer at its end is left out) and ``instruction`` (text), looked for in this order. A
            column ``system`` becomes the first turn.

    Raises:
        ValueError: the file cannot be read, or a row has no prompt; names file and line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "questions.txt")
        >>> _ = path.write_text("Name a colour.\\n")
        >>> read_prompts(path)[0].prompt
        (Message(role='user', content='Name a colour.'),)
    """
    if not path.name.endswith((_TEXT, *KINDS)):
        raise ValueError(f"{path}: the file's kind is not known; accepted: {', '.join((_TEXT, *KINDS))}")
    if not path.is_file():
        raise ValueError(f"no file at '{path}'; accepted: the path of a {', '.join((_TEXT, *KINDS))} file")
    rows = _text_rows(path) if path.suffix == _TEXT else read_file(path, str(path))
    prompts = [Prompt(row_id, _conversation(row, row_id)) for row_id, row in rows]
    if not prompts:
        raise ValueError(f"{path}: holds no prompts")
    return prompts


def _text_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 (byte {error.start + 1}: {error.reason})") from error
    # not splitlines: a prompt may hold a line separator of Unicode
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", {"prompt": line.removesuffix("\r")}


def _conversation(row: Row, row_id: str) -> tuple[Message, ...]:
    there = [name for name in COLUMNS if name in row]
    if not there:
        found = ", ".join(row) or "none"
        raise ValueError(f"{row_id}: has none of the columns {', '.join(COLUMNS)}; it has: {found}")
    column = next((name for name in there if row[name] is not None), there[0])
    value = row[column]
    if isinstance(value, str) and column != "messages":
        messages = [Message("user", value)]
    elif isinstance(value, list) and column != "instruction":
        messages = messages_of(value, column, row_id)
    else:
        wanted = {"prompt": "text or a list of messages", "messages": "a list of messages", "instruction": "text"}
        kind = "null" if value is None else type(value).__name__
        raise ValueError(f"{row_id}: {column!r} is {kind}, not {wanted[column]}")
    if column == "messages" and messages and messages[-1].role == "assistant":
        messages.pop()
    if not any(message.content.strip() for message in messages):
        raise ValueError(f"{row_id}: the prompt is empty")
    return tuple(with_system(row, messages, row_id))
