"""What rows are recognised by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from orpo_lightning.data.splits import Mixture
from orpo_lightning.data.token_table import TokenTable
from orpo_lightning.records import TokenizedRow


def fingerprint_of_rows(rows: Sequence[TokenizedRow]) -> str:
    """A hash of all that training takes from rows, and of their order; where they came from does not count.

    Example:
        >>> from orpo_lightning.testing import make_rows
        >>> fingerprint_of_rows(make_rows(4)) == fingerprint_of_rows(make_rows(4)[::-1])
        False
    """
    digest = hashlib.sha256()
    _add(digest, rows)
    return digest.hexdigest()[:16]


def _add(digest: Any, rows: Sequence[TokenizedRow]) -> None:
    if isinstance(rows, TokenTable):
        for array in (rows.ids, rows.segment_end, rows.role, rows.label, rows.row_end, rows.margin, rows.weight):
            digest.update(np.ascontiguousarray(array).data)
    elif isinstance(rows, Mixture):
        for part, drawn in rows.parts:
            _add(digest, part)
            digest.update(np.array(drawn, dtype=np.int64).data)
    else:
        for row in rows:
            responses = [(response.ids, int(response.role), response.label) for response in row.responses]
            digest.update(repr((row.prompt, responses, row.margin, row.weight)).encode())
