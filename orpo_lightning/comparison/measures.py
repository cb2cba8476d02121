"""The measures that runs are compared by: what each pair has of them, how much it counts, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orpo_lightning.summary.gains import FEWEST_PAIRS
from orpo_lightning.summary.intervals import Interval, bootstrap, share_interval
from orpo_lightning.summary.pairs import PairMeasures


@dataclass(frozen=True)
class Measure:
    """A measure of validation pairs that contains neither a strength nor a reference.

    Args:
        name: a property of the pairs, and a field of the row of a run.
        lowest: the least that it can be.
        highest: the most.
        is_over_tokens: whether a pair counts as often as its chosen response has tokens: the mean is then a ratio of
            sums, and resampling the pairs resamples both.
        scale: what it is multiplied by to be shown.
        decimals: how many are shown.
    """

    name: str
    lowest: float = -math.inf
    highest: float = math.inf
    is_over_tokens: bool = False
    scale: float = 1.0
    decimals: int = 3

    @property
    def is_share(self) -> bool:
        """Whether it is a share of the pairs."""
        return (self.lowest, self.highest) == (0.0, 1.0)

    def values(self, pairs: Sequence[PairMeasures]) -> NDArray[np.float64]:
        """What each pair has of it, ``(P,)``."""
        return np.array([getattr(pair, self.name) for pair in pairs], dtype=np.float64)

    def weights(self, pairs: Sequence[PairMeasures]) -> NDArray[np.float64]:
        """How much each pair counts, ``(P,)``."""
        each = [pair.weight * (pair.chosen_tokens if self.is_over_tokens else 1) for pair in pairs]
        return np.array(each, dtype=np.float64)

    def mean(self, pairs: Sequence[PairMeasures]) -> Interval | float | None:
        """The mean over pairs, with its interval where there are enough of them; None without a pair."""
        if not pairs:
            return None
        find = share_interval if self.is_share else bootstrap
        found = find(self.values(pairs), self.weights(pairs))
        return found if len(pairs) >= FEWEST_PAIRS else found.value

    def text(self, value: float, sign: str = "") -> str:
        """A value as it is shown.

        Example:
            >>> MEASURES["accuracy"].text(0.5), MEASURES["margin"].text(-0.25, "+")
            ('50.0', '-0.250')
        """
        return f"{self.scale * value:{sign}z.{self.decimals}f}"

    def ends(self, value: Interval | float | None, sign: str = "") -> str:
        """The ends of an interval as they are shown; empty where there is none.

        Example:
            >>> MEASURES["accuracy"].ends(Interval(0.5, 0.25, 0.75))
            '25.0 to 75.0'
        """
        if not isinstance(value, Interval) or math.isnan(value.low):
            return ""
        return f"{self.text(value.low, sign)} to {self.text(value.high, sign)}"


MEASURES = {
    each.name: each
    for each in (
        Measure("accuracy", lowest=0.0, highest=1.0, scale=100.0, decimals=1),
        Measure("margin"),
        Measure("nll_response", lowest=0.0, is_over_tokens=True),
    )
}
