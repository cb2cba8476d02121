"""From a source to tokenized rows, with an account of every row that did not get there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from orpo_lightning.data.filters import FILTERS
from orpo_lightning.data.formats import RowError, detect_format
from orpo_lightning.data.sources import read_rows
from orpo_lightning.data.tokenization import load_tokenizer, tokenize_pairs
from orpo_lightning.records import PreferencePair, TokenizedRow


@dataclass
class SplitReport:
    """What became of the rows of a split: rows read = kept + dropped, each drop counted under one reason.

    Args:
        split: its name.
        source: where the rows are from.
        format: the format they were read in.
        read: rows read.
        kept: rows kept.
        dropped: rows dropped, by reason.

    Example:
        >>> print(SplitReport("train", "a.jsonl", "text", read=3, kept=2, dropped=Counter(empty_chosen=1)))
        train: a.jsonl (text): 3 rows read, 2 kept, dropped: 1 empty_chosen
    """

    split: str
    source: str
    format: str = ""
    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items()) or "none"
        counts = f"{self.read:,} rows read, {self.kept:,} kept, dropped: {dropped}"
        return f"{self.split}: {self.source} ({self.format}): {counts}"


def prepare_split(
    split: str, source: str, tokenizer: str, max_length: int, max_prompt_length: int, revision: str | None = None
) -> tuple[list[TokenizedRow], SplitReport]:
    """Read, filter and tokenize the rows of a source.

    Args:
        split: ``train`` or ``validation``.
        source: as in :func:`~orpo_lightning.data.sources.read_rows`.
        tokenizer: whose tokenizer to use.
        max_length: longest conversation, tokens.
        max_prompt_length: longest prompt, tokens.
        revision: of the tokenizer, if it is on the hub.

    Raises:
        ValueError: the source cannot be read, or no row of it is left; says what dropped them.
    """
    report = SplitReport(split, source)
    pairs = _read_pairs(report)
    rows = []
    for row in tokenize_pairs(load_tokenizer(tokenizer, revision), pairs):
        reason = _too_long(row, max_length, max_prompt_length)
        if reason is None:
            rows.append(row)
        else:
            report.dropped[reason] += 1
    report.kept = len(rows)
    if not rows:
        raise ValueError(f"no row is left: {report}")
    return rows, report


def _read_pairs(report: SplitReport) -> list[PreferencePair]:
    pairs = []
    rows = list(read_rows(report.source, report.split))
    row_format = detect_format((row for _, row in rows), report.source)
    report.format = row_format.name
    for row_id, row in rows:
        report.read += 1
        try:
            pair = row_format.parse(row, row_id)
        except RowError as error:
            report.dropped[error.reason] += 1
            continue
        reason = next((rule.__name__ for rule in FILTERS if rule(pair)), None)
        if reason is None:
            pairs.append(pair)
        else:
            report.dropped[reason] += 1
    return pairs


def _too_long(row: TokenizedRow, max_length: int, max_prompt_length: int) -> str | None:
    if len(row.prompt) > max_prompt_length:
        return "prompt_too_long"
    if len(row.prompt) + max(len(response.ids) for response in row.responses) > max_length:
        return "response_too_long"
    return None
