"""``answers.jsonl``: what the policy answered to a few prompts before and after the training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orpo_lightning.whole_file import whole_file


@dataclass(frozen=True)
class Answer:
    """An answer to a prompt.

    Args:
        step: optimizer steps done.
        row_id: the prompt's row in the data.
        prompt: what was asked: the last turn of the conversation.
        answer: what the policy answered.
        finished: whether it came to an end, and was not cut off at the longest length.
        tokens: of the answer; None where they were not counted.
    """

    step: int
    row_id: str
    prompt: str
    answer: str
    finished: bool
    tokens: int | None = None


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file; none where there is no file.

    Raises:
        ValueError: the file is of another kind.
    """
    if not path.exists():
        return []
    try:
        return [Answer(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as the answers of a run; accepted: one that a fit wrote") from error


def write_answers(path: Path, step: int, answers: Sequence[Answer]) -> None:
    """Add answers, in the place of those of this step and of later ones; whole or not at all."""
    kept = [answer for answer in read_answers(path) if answer.step < step]
    lines = [json.dumps(vars(answer), ensure_ascii=False) + "\n" for answer in (*kept, *answers)]
    with whole_file(path) as unfinished:
        unfinished.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
