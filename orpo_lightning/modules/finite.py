"""What to say of a step whose loss or gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from orpo_lightning.packing import PackedBatch
from orpo_lightning.ranks import from_all_ranks


@dataclass(frozen=True, eq=False)
class Scored:
    """What a micro-batch of the step that is being taken came to, without gradients.

    Args:
        batch: the micro-batch.
        loss: the values of the loss.
        groups: the prompt group of each.
        seen: what each is a function of, by name, such as the log-probability of the chosen response, nats.
    """

    batch: PackedBatch
    loss: Tensor
    groups: Tensor
    seen: Mapping[str, Tensor]

    @property
    def row_ids(self) -> list[str]:
        """The row of each value of the loss."""
        return [self.batch.row_ids[group] for group in self.groups.tolist()]


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite. Raised before the optimizer steps, so the weights are still good.

    Args:
        what: ``the loss`` or ``the gradient norm``.
        value: what it is.
        step: the optimizer step.
        rows: the rows to blame.
    """

    def __init__(self, what: str, value: float, step: int, rows: Sequence[str]) -> None:
        super().__init__(what, value, step, rows)
        self.what = what
        self.value = value
        self.step = step
        self.rows = rows
        self.advice = ""
        """What whoever has kept the step adds to the message: how to look into it."""

    def __str__(self) -> str:
        message = (
            f"{self.what} of optimizer step {self.step} is {self.value}; the weights are those from before this step. "
            f"Rows: {', '.join(self.rows)}"
        )
        return f"{message}. {self.advice}" if self.advice else message


def check_finite(values: Mapping[str, float], step: int, scored: Sequence[Scored]) -> None:
    """Insist that what an optimizer step is about to follow is finite. All ranks have to call this.

    Args:
        values: by what they are called.
        step: the optimizer step.
        scored: its micro-batches.

    Raises:
        NonFiniteError: one is not; names it, and the rows.
    """
    for what, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteError(what, value, step, rows_to_blame(scored))


def rows_to_blame(scored: Sequence[Scored]) -> list[str]:
    """The rows of a step, on all ranks, whose loss is not finite; all of its rows where every loss is.

    Then a gradient is infinite all the same, and any row may be the cause. All ranks have to call this.
    """
    own = [pair for each in scored for pair in zip(each.row_ids, each.loss.tolist(), strict=True)]
    found = [pair for of_rank in from_all_ranks(own) for pair in of_rank]
    bad = {row_id for row_id, loss in found if not math.isfinite(loss)}
    return sorted(bad or {row_id for row_id, _ in found})
