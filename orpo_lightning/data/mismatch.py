"""Mismatched responses: each prompt gets one that was given to another prompt.

The objectives with such a need estimate by them how far the policy is from its reference. Which response a prompt gets
is a function of the split alone, so that shuffling, batch sizes and ranks cannot change it, and its log-probability
under the reference can be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from orpo_lightning.data.segments import LazyRows, Segments
from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow


@dataclass(frozen=True, eq=False)
class MismatchedRows(LazyRows):
    """Rows, each with a response to another prompt.

    Args:
        rows: the rows of the split, L of them.
        donor: the row that each gets its response from, ``(L,)``.
        response: which of the donor's responses that is, ``(L,)``.
        length: how many tokens of it are taken, ``(L,)``.
    """

    rows: Sequence[TokenizedRow]
    donor: NDArray[np.int64]
    response: NDArray[np.int64]
    length: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def segments(self) -> Segments:
        """The sizes of all rows."""
        return Segments.of(self.rows).with_last(self.length, Role.MISMATCHED)

    def row(self, index: int) -> TokenizedRow:
        """The row at a place from 0 on."""
        row, given = self.rows[index], self.rows[self.donor[index]].responses[self.response[index]]
        added = TokenizedResponse(given.ids[: self.length[index]], Role.MISMATCHED)
        return replace(row, responses=(*row.responses, added))


def with_mismatched(rows: Sequence[TokenizedRow], split: str) -> MismatchedRows:
    """The rows, each with a response of the next row that has another prompt; after the last row comes the first.

    Rows in even places take that row's first response, those in odd places its second if it has one, so that of pairs
    chosen and rejected responses are taken in turn. A conversation that becomes longer than the longest of the split is
    cut to that length: no limit on tokens or positions that the split keeps is broken.

    Args:
        rows: the rows of the split, in its order.
        split: its name, for the error.

    Raises:
        ValueError: all rows have the same prompt.

    Example:
        >>> rows = [TokenizedRow(f"a:{i}", (i,), (TokenizedResponse((10 * i,), Role.UNPAIRED, 1.0),)) for i in (1, 2)]
        >>> [row.responses[-1].ids for row in with_mismatched(rows, "train")]
        [(20,), (10,)]
    """
    changes = _places_where_the_prompt_changes(rows)
    if not changes.size:
        raise ValueError(
            f"the {split} data has fewer than two different prompts; an objective that compares prompts with the "
            "responses to others (KTO) needs two or more"
        )
    sizes, places = Segments.of(rows), np.arange(len(rows))
    donor = (changes[np.searchsorted(changes, places) % len(changes)] + 1) % len(rows)
    response = places % sizes.responses[donor]
    room = sizes.conversations.max() - sizes.prompts
    length = np.minimum(sizes.length[sizes.row_start[donor] + 1 + response], room)
    return MismatchedRows(rows, donor, response, length)


def _places_where_the_prompt_changes(rows: Sequence[TokenizedRow]) -> NDArray[np.int64]:
    """Those rows after which one with another prompt comes, the first after the last; one pass that holds two rows."""
    prompts = (row.prompt for row in chain(rows, rows[:1]))
    return np.flatnonzero([prompt != following for prompt, following in pairwise(prompts)])
