"""Mismatched responses: each prompt gets one that was given to another prompt.

The objectives with such a need estimate by them how far the policy is from its reference. Which response a prompt gets
is a function of the split alone, so that shuffling, batch sizes and ranks cannot change it, and its log-probability
under the reference can be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow


def with_mismatched(rows: Sequence[TokenizedRow], split: str) -> list[TokenizedRow]:
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
    if all(row.prompt == rows[0].prompt for row in rows):
        raise ValueError(
            f"the {split} data has fewer than two different prompts; an objective that compares prompts with the "
            "responses to others (KTO) needs two or more"
        )
    longest = max(len(row.prompt) + len(response.ids) for row in rows for response in row.responses)
    others = _next_other_prompt(rows)
    mixed = []
    for place, row in enumerate(rows):
        candidates = rows[others[place]].responses
        ids = candidates[place % len(candidates)].ids[: longest - len(row.prompt)]
        mixed.append(replace(row, responses=(*row.responses, TokenizedResponse(ids, Role.MISMATCHED))))
    return mixed


def _next_other_prompt(rows: Sequence[TokenizedRow]) -> list[int]:
    """For each row the place of the next one, around the end, with another prompt; one pass back through two rounds."""
    count = len(rows)
    others = [0] * (2 * count)
    for place in range(2 * count - 2, -1, -1):
        following = (place + 1) % count
        differs = rows[following].prompt != rows[place % count].prompt
        others[place] = following if differs else others[place + 1]
    return others[:count]
