"""The sizes of rows without their tokens, and rows that are made only when they are asked for.

A row as an object takes several times the memory of its tokens in a flat array. What has to be known of all rows at
once is therefore computed from arrays, and rows are never held.

Shape suffixes: S segments (prompts and responses, in the order of the rows), L rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from orpo_lightning.records import Role, TokenizedRow

PROMPT = -1
"""The role of the segment that is a prompt."""


class LazyRows(Sequence[TokenizedRow]):
    """Rows that are made when they are asked for; of all of them at once there are only the sizes."""

    @property
    @abstractmethod
    def segments(self) -> Segments:
        """The sizes of all rows."""

    @abstractmethod
    def row(self, index: int) -> TokenizedRow:
        """The row at a place from 0 on."""

    @overload
    def __getitem__(self, index: int) -> TokenizedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedRow]: ...
    def __getitem__(self, index: int | slice) -> TokenizedRow | list[TokenizedRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.row(index % len(self))


@dataclass(frozen=True, eq=False)
class Segments:
    """The sizes of rows.

    Args:
        length: tokens of each segment, ``(S,)``.
        role: a :class:`~orpo_lightning.records.Role` or `PROMPT`, ``(S,)``.
        row_end: where each row ends in the segments; its first segment is the prompt, ``(L,)``.

    Example:
        >>> from orpo_lightning.records import TokenizedResponse
        >>> row = TokenizedRow("a:1", (5, 6), (TokenizedResponse((7, 2), Role.CHOSEN),))
        >>> sizes = Segments.of([row, row])
        >>> sizes.conversations.tolist(), sizes.stream_tokens(tuple(Role)).tolist()
        ([4, 4], [3, 3])
    """

    length: NDArray[np.int64]
    role: NDArray[np.int8]
    row_end: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[TokenizedRow]) -> Segments:
        """The sizes of any rows; of lazy ones they are there without making a row."""
        if isinstance(rows, LazyRows):
            return rows.segments
        parts = [
            (length, role)
            for row in rows
            for length, role in ((len(row.prompt), PROMPT), *((len(each.ids), each.role) for each in row.responses))
        ]
        length, role = np.array(parts, dtype=np.int64).reshape(-1, 2).T
        ends = np.cumsum([1 + len(row.responses) for row in rows], dtype=np.int64)
        return cls(length, role.astype(np.int8), ends)

    @property
    def row_start(self) -> NDArray[np.int64]:
        """Where each row begins in the segments: its prompt, ``(L,)``."""
        return np.concatenate(([0], self.row_end[:-1])).astype(np.int64)[: len(self.row_end)]

    @property
    def prompts(self) -> NDArray[np.int64]:
        """Tokens of each prompt, ``(L,)``."""
        return self.length[self.row_start]

    @property
    def responses(self) -> NDArray[np.int64]:
        """Number of responses of each row, ``(L,)``."""
        return self.row_end - self.row_start - 1

    @property
    def conversations(self) -> NDArray[np.int64]:
        """Tokens of each prompt with the longest of its responses, ``(L,)``."""
        responses = np.where(self.role == PROMPT, 0, self.length)
        return self.prompts + np.maximum.reduceat(responses, self.row_start)

    def stream_tokens(self, roles: Collection[Role]) -> NDArray[np.int64]:
        """Tokens of each row in the stream that a model runs over, ``(L,)``: a response's last one predicts nothing.

        Args:
            roles: the responses of these roles are part of the stream.
        """
        responses = np.where(np.isin(self.role, [int(role) for role in roles]), self.length - 1, 0)
        return np.add.reduceat(np.where(self.role == PROMPT, self.length, responses), self.row_start)

    def first_row_with(self, role: Role) -> int | None:
        """The place of the first row that has a response of a role, if there is one."""
        found = np.flatnonzero(self.role == role)
        return int(np.searchsorted(self.row_end, found[0], side="right")) if found.size else None

    def take(self, rows: Sequence[int]) -> Segments:
        """The sizes of some of the rows, in this order."""
        chosen = np.asarray(rows, dtype=np.int64)
        counts = self.responses[chosen] + 1
        ends = np.cumsum(counts, dtype=np.int64)
        places = np.repeat(self.row_start[chosen] - (ends - counts), counts) + np.arange(counts.sum())
        return Segments(self.length[places], self.role[places], ends)

    @classmethod
    def joined(cls, parts: Sequence[Segments]) -> Segments:
        """The sizes of the rows of all parts, one part after the other."""
        offsets = np.cumsum([0, *(len(part.length) for part in parts)])
        return cls(
            np.concatenate([part.length for part in parts]),
            np.concatenate([part.role for part in parts]),
            np.concatenate([part.row_end + offset for part, offset in zip(parts, offsets[:-1], strict=True)]),
        )

    def with_last(self, length: NDArray[np.int64], role: Role) -> Segments:
        """The sizes of the rows with a further response each, of these lengths, ``(L,)``."""
        return Segments(
            np.insert(self.length, self.row_end, length),
            np.insert(self.role, self.row_end, role),
            self.row_end + np.arange(1, len(self.row_end) + 1),
        )
