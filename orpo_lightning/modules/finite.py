"""What to say of a step whose loss or gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from orpo_lightning.ranks import from_all_ranks

RowLosses = tuple[Tensor, Tensor, tuple[str, ...]]
"""Of a micro-batch: the values of the loss, the prompt group of each, and the row ids of the groups."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite. Raised before the optimizer steps, so the weights are still good."""


def check_finite(values: Mapping[str, float], step: int, losses: Sequence[RowLosses]) -> None:
    """Insist that what an optimizer step is about to follow is finite. All ranks have to call this.

    Args:
        values: by what they are called.
        step: the optimizer step.
        losses: of its micro-batches.

    Raises:
        NonFiniteError: one is not; names it, and the rows.
    """
    for what, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{what} of optimizer step {step} is {value}; the weights are those from before this step. "
                f"Rows: {', '.join(rows_to_blame(losses))}"
            )


def rows_to_blame(losses: Sequence[RowLosses]) -> list[str]:
    """The rows of a step, on all ranks, whose loss is not finite; all of its rows where every loss is.

    Then a gradient is infinite all the same, and any row may be the cause. All ranks have to call this.

    Example:
        >>> import torch
        >>> loss, groups = torch.tensor([0.5, torch.nan, 0.25]), torch.tensor([0, 1, 1])
        >>> rows_to_blame([(loss, groups, ("a:1", "a:2"))])
        ['a:2']
    """
    own = [
        (ids[group], value)
        for loss, groups, ids in losses
        for group, value in zip(groups.tolist(), loss.tolist(), strict=True)
    ]
    found = [pair for of_rank in from_all_ranks(own) for pair in of_rank]
    bad = {row_id for row_id, loss in found if not math.isfinite(loss)}
    return sorted(bad or {row_id for row_id, _ in found})
