"""Tokenized rows in a few flat arrays: small in memory, quick to save and to load.

Shape suffixes: N tokens, S segments (prompts and responses, in the order of the rows), L rows.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpo_lightning.data.segments import PROMPT, LazyRows, Segments
from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow


@dataclass(frozen=True, eq=False)
class TokenTable(LazyRows):
    """The tokenized rows of a source.

    Args:
        ids: the tokens of all segments, ``(N,)``.
        segment_end: where each segment ends in `ids`, ``(S,)``.
        role: a :class:`~orpo_lightning.records.Role` or `PROMPT`, ``(S,)``.
        label: the responses' labels, NaN where none, ``(S,)``.
        row_end: where each row ends in the segments; its first segment is the prompt, ``(L,)``.
        margin: score differences, NaN where none, ``(L,)``.
        weight: row weights, ``(L,)``.
        row_ids: where each row came from, ``(L,)``.
        prompt_keys: a hash of each prompt's text, ``(L,)``.
    """

    ids: NDArray[np.int32]
    segment_end: NDArray[np.int64]
    role: NDArray[np.int8]
    label: NDArray[np.float64]
    row_end: NDArray[np.int64]
    margin: NDArray[np.float64]
    weight: NDArray[np.float64]
    row_ids: tuple[str, ...]
    prompt_keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.row_end)

    def row(self, index: int) -> TokenizedRow:
        """The row at a place from 0 on."""
        first, last = int(self.row_end[index - 1]) if index else 0, int(self.row_end[index])
        prompt, *responses = (self._segment(i) for i in range(first, last))
        margin, labels = float(self.margin[index]), self.label[first + 1 : last].tolist()
        return TokenizedRow(
            row_id=self.row_ids[index],
            prompt=prompt,
            responses=tuple(
                TokenizedResponse(ids, Role(role), None if label != label else label)
                for ids, role, label in zip(responses, self.role[first + 1 : last].tolist(), labels, strict=True)
            ),
            margin=None if margin != margin else margin,
            weight=float(self.weight[index]),
        )

    def _segment(self, index: int) -> tuple[int, ...]:
        start = self.segment_end[index - 1] if index else 0
        return tuple(self.ids[start : self.segment_end[index]].tolist())

    @property
    def segments(self) -> Segments:
        """The sizes of all rows."""
        return Segments(np.diff(self.segment_end, prepend=0), self.role, self.row_end)

    def lengths(self, role: int) -> NDArray[np.int64]:
        """Tokens of every segment of a role."""
        lengths: NDArray[np.int64] = self.segments.length[self.role == role]
        return lengths

    def rows_of_tokens(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each of some tokens, given by their places in `ids`."""
        segments = np.searchsorted(self.segment_end, places, side="right")
        rows: NDArray[np.int64] = np.searchsorted(self.row_end, segments, side="right")
        return rows

    def save(self, path: Path, **texts: str) -> None:
        """Write the table, and texts beside it, to one file; each part of it carries a checksum."""
        arrays: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            arrays[each.name] = value if isinstance(value, np.ndarray) else _bytes_of(json.dumps(value))
        arrays |= {name: _bytes_of(text) for name, text in texts.items()}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> tuple[TokenTable, dict[str, str]]:
        """The table and the texts of a file.

        Raises:
            Exception: of many kinds, if the file is damaged: the archive's checksums are compared.
        """
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
        names = {each.name for each in fields(cls)}
        texts = {name: arrays.pop(name).tobytes().decode() for name in list(arrays) if name not in names}
        for name in ("row_ids", "prompt_keys"):
            arrays[name] = tuple(json.loads(arrays[name].tobytes()))
        return cls(**arrays), texts


class TableBuilder:
    """Collects rows for a :class:`TokenTable`.

    Example:
        >>> builder = TableBuilder()
        >>> builder.add(TokenizedRow("a:1", (5, 6), (TokenizedResponse((7, 2), Role.CHOSEN),)), prompt_key="")
        >>> table = builder.table()
        >>> table[0].prompt, table.lengths(Role.CHOSEN)
        ((5, 6), array([2]))
    """

    def __init__(self) -> None:
        self._ids = array("i")
        self._segment_end, self._row_end = array("q"), array("q")
        self._role = array("b")
        self._label, self._margin, self._weight = array("d"), array("d"), array("d")
        self._row_ids: list[str] = []
        self._prompt_keys: list[str] = []

    def add(self, row: TokenizedRow, prompt_key: str) -> None:
        """Add a row, and the hash of its prompt's text."""
        self._add_segment(row.prompt, PROMPT, None)
        for response in row.responses:
            self._add_segment(response.ids, response.role, response.label)
        self._row_end.append(len(self._segment_end))
        self._margin.append(math.nan if row.margin is None else row.margin)
        self._weight.append(row.weight)
        self._row_ids.append(row.row_id)
        self._prompt_keys.append(prompt_key)

    def _add_segment(self, ids: Sequence[int], role: int, label: float | None) -> None:
        self._ids.extend(ids)
        self._segment_end.append(len(self._ids))
        self._role.append(role)
        self._label.append(math.nan if label is None else label)

    def table(self) -> TokenTable:
        """The table of all rows."""
        return TokenTable(
            ids=np.array(self._ids, dtype=np.int32),
            segment_end=np.array(self._segment_end, dtype=np.int64),
            role=np.array(self._role, dtype=np.int8),
            label=np.array(self._label, dtype=np.float64),
            row_end=np.array(self._row_end, dtype=np.int64),
            margin=np.array(self._margin, dtype=np.float64),
            weight=np.array(self._weight, dtype=np.float64),
            row_ids=tuple(self._row_ids),
            prompt_keys=tuple(self._prompt_keys),
        )


def _bytes_of(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)
