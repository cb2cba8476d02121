"""The account of a split: what became of every row, and what a careful person would want to know of those kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from orpo_lightning.data.columns import RowError
from orpo_lightning.data.segments import PROMPT
from orpo_lightning.data.token_table import TokenTable
from orpo_lightning.records import Role
from orpo_lightning.whole_file import whole_file

QUANTILES = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_WIDE = 80
"""Characters of a terminal that holds two reports side by side."""
_SEGMENTS = {"prompt": PROMPT, "chosen": Role.CHOSEN, "rejected": Role.REJECTED, "response": Role.UNPAIRED}


@dataclass
class SplitReport:
    """What became of the rows of a source: rows read = kept + dropped, each drop counted under one reason.

    Args:
        split: ``train`` or ``validation``, with the name of the source after it where there are several.
        source: where the rows are from.
        format: the format they were read in.
        read: rows read.
        kept: rows kept; a row that was cut is kept.
        dropped: rows dropped, by reason, in the order of the rules.
        dropped_rows: each of them: its id, the reason, and what was wrong with it.
        truncated: rows kept but cut, by what was cut.
        lengths: quantiles of the lengths in tokens, by part of the row.
        longer_is_chosen: share of the pairs of different lengths in which the chosen response is the longer one.
        responses: responses of the rows kept.
        without_end: those of them without the token that ends one.
        first_without_end: the first row with such a response.
        unknown: rows with text that the tokenizer has no tokens for.
        prefix_pairs: pairs in which one response is the beginning of the other.
        duplicates: rows that repeat the prompt and the responses of a row before them.
        shared_prompts: rows whose prompt is also one of a validation row; of validation data, of a row that is trained
            on.
        first_shared: the first of them, of validation data only.
        scored: rows with a score margin.
        weighted: rows with a weight other than 1.
        desirable: share of the unpaired responses that are desirable.
        tokens: prompt and response tokens of the rows kept.
        used: rows of an epoch, where a mixture takes more or fewer than those kept.

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
    dropped_rows: list[tuple[str, str, str]] = field(default_factory=list)
    truncated: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)
    longer_is_chosen: float | None = None
    responses: int = 0
    without_end: int = 0
    first_without_end: str | None = None
    unknown: int = 0
    prefix_pairs: int = 0
    duplicates: int = 0
    shared_prompts: int = 0
    first_shared: str | None = None
    scored: int = 0
    weighted: int = 0
    desirable: float | None = None
    tokens: int = 0
    used: int | None = None

    def drop(self, error: RowError) -> None:
        """Count a dropped row."""
        self.dropped[error.reason] += 1
        self.dropped_rows.append((error.row_id, error.reason, error.detail))

    def examples(self, reasons: Collection[str]) -> str:
        """The first rows that these reasons dropped, a line each."""
        found = [f"  {row_id}: {reason}: {detail}" for row_id, reason, detail in self.dropped_rows if reason in reasons]
        return "\n".join(found[:3])

    def describe(self, table: TokenTable, end: int, unknown: int | None) -> None:
        """Add what the kept rows are like.

        Args:
            table: the kept rows.
            end: the token that ends a response.
            unknown: the token that stands for what the tokenizer has no tokens for, if there is one.
        """
        self.kept = len(table)
        self.tokens = len(table.ids)
        lengths = {name: table.lengths(role) for name, role in _SEGMENTS.items()}
        self.lengths = {
            name: {quantile: int(np.quantile(found, share, method="nearest")) for quantile, share in QUANTILES.items()}
            for name, found in lengths.items()
            if len(found)
        }
        longer = np.sign(lengths["chosen"] - lengths["rejected"])
        if np.any(longer):
            self.longer_is_chosen = float((longer > 0).sum() / (longer != 0).sum())
        last = table.segment_end - 1
        cut = last[(table.role != PROMPT) & (table.ids[last] != end)]
        self.responses, self.without_end = int((table.role != PROMPT).sum()), len(cut)
        self.first_without_end = table.row_ids[table.rows_of_tokens(cut[:1])[0]] if len(cut) else None
        if unknown is not None:
            places = np.flatnonzero(table.ids == unknown)
            self.unknown = len(np.unique(table.rows_of_tokens(places)))
        labels = table.label[table.role == Role.UNPAIRED]
        if len(labels):
            self.desirable = float(labels.mean())
        self.scored = int((~np.isnan(table.margin)).sum())
        self.weighted = int((table.weight != 1).sum())

    def __str__(self) -> str:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items()) or "none"
        truncated = "".join(f", {count:,} with a {what} cut" for what, count in self.truncated.items())
        counts = f"{self.read:,} rows read, {self.kept:,} kept{truncated}, dropped: {dropped}"
        return f"{self.split}: {self.source} ({self.format}): {counts}"

    def numbers(self) -> dict[str, Any]:
        """The counts and shares, without the rows that were dropped, for loggers."""
        return {name: value for name, value in self.to_dict().items() if name != "dropped_rows" and value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SplitReport:
        """The report that :meth:`to_dict` was called on."""
        report = cls(**values)
        report.dropped, report.truncated = Counter(report.dropped), Counter(report.truncated)
        report.dropped_rows = [(row_id, reason, detail) for row_id, reason, detail in report.dropped_rows]
        return report


def write_reports(path: Path, reports: Mapping[str, SplitReport]) -> None:
    """Write reports to a file, whole or not at all."""
    content = {name: report.to_dict() for name, report in reports.items()}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_reports(path: Path) -> dict[str, SplitReport]:
    """The reports of a file; none where there is no file."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: SplitReport.from_dict(report) for name, report in content.items()}


def print_reports(reports: Mapping[str, SplitReport], console: Console | None = None) -> None:
    """Print reports side by side, by default on the standard error, where the other messages of a run are."""
    console = console or Console(stderr=True)
    for name, report in reports.items():
        console.print(f"{name}: {report.source} ({report.format})", markup=False, highlight=False, soft_wrap=True)
    names, columns = list(reports), 2 if console.width >= _WIDE else 1
    for start in range(0, len(names), columns):
        shown = names[start : start + columns]
        table = Table(box=None, pad_edge=False)
        table.add_column("rows", no_wrap=True)
        for name in shown:
            table.add_column(name, justify="right", no_wrap=True)
        for label, cells in _lines([reports[name] for name in shown]):
            table.add_row(label, *cells)
        console.print(table)


def _lines(reports: list[SplitReport]) -> list[tuple[str, list[str]]]:
    def counts(label: str, values: list[int], sign: str = "") -> list[tuple[str, list[str]]]:
        return [(label, [f"{sign}{value:,}" if value else "" for value in values])] if any(values) else []

    def shares(label: str, values: list[float | None]) -> list[tuple[str, list[str]]]:
        shown = ["" if value is None else f"{value:.0%}" for value in values]
        return [(label, shown)] if any(shown) else []

    lines = [("read", [f"{report.read:,}" for report in reports])]
    for reason in _merged([list(report.dropped) for report in reports]):
        lines += counts(f"  {reason}", [report.dropped[reason] for report in reports], sign="-")
    lines += [("kept", [f"{report.kept:,}" for report in reports])]
    if any(report.used is not None for report in reports):
        lines += [
            ("used per epoch", [f"{report.kept if report.used is None else report.used:,}" for report in reports])
        ]
    for what in dict.fromkeys(what for report in reports for what in report.truncated):
        lines += counts(f"{what} cut", [report.truncated[what] for report in reports])
    for part in dict.fromkeys(part for report in reports for part in report.lengths):
        quantiles = [report.lengths.get(part, {}) for report in reports]
        cells = [
            " / ".join(f"{each[name]:,}" for name in ("median", "p90", "max")) if each else "" for each in quantiles
        ]
        lines.append((f"{part} tokens: median / 90 % / max", cells))
    lines += shares("longer response is the chosen one", [report.longer_is_chosen for report in reports])
    lines += shares("desirable", [report.desirable for report in reports])
    for label, name in (
        ("tokens", "tokens"),
        ("with a score margin", "scored"),
        ("with a weight", "weighted"),
        ("prompts shared by training and validation", "shared_prompts"),
        ("repeated rows", "duplicates"),
        ("one response begins with the other", "prefix_pairs"),
        ("responses without an end", "without_end"),
        ("rows with text unknown to the tokenizer", "unknown"),
    ):
        lines += counts(label, [getattr(report, name) for report in reports])
    return lines


def _merged(orders: list[list[str]]) -> list[str]:
    """Names in an order in which each list has them too; where two contradict each other, that of the first."""
    merged: list[str] = []
    for order in orders:
        place = 0
        for name in order:
            if name not in merged:
                merged.insert(place, name)
            place = merged.index(name) + 1
    return merged
