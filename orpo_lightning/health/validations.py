"""What can be told from one validation after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

LIKELIHOOD, ACCURACY, MARGIN, REWARD_MARGIN = "logps_mean/chosen", "pref/accuracies", "pref/margins", "rewards/margins"
MEASURES = (LIKELIHOOD, ACCURACY, MARGIN, REWARD_MARGIN)
"""What the rules look at, by the names that it is logged under."""
LEAST_FALL = 0.05
"""Nats/token that a likelihood has to fall by in all: a little less of it is part of many a good run."""
GROWTH = 2.0
"""How many times as large a margin has become that has nothing left to tell apart."""


@dataclass(frozen=True)
class Measured:
    """What was measured after a number of optimizer steps.

    Args:
        step: the steps.
        on: in words, what on: ``the validation``, ``the validation set easy`` or ``the training``.
        values: by measure.
    """

    step: int
    on: str
    values: Mapping[str, float]


Rule = Callable[[Sequence[Measured], int], str | None]
"""Of what was measured so far and a number of times in a row, a sentence, or None where nothing is wrong."""


def falling_likelihood(history: Sequence[Measured], patience: int) -> str | None:
    """The chosen responses become less likely again and again.

    Args:
        history: what was measured on a validation set, in order.
        patience: how many times in a row.

    Example:
        >>> likelihoods = [-1.0, -1.1, -1.2, -1.3]
        >>> history = [Measured(8 * i, "the validation", {LIKELIHOOD: each}) for i, each in enumerate(likelihoods)]
        >>> print(falling_likelihood(history, patience=3))
        the chosen responses of the validation have become less likely for 3 validations in a row: ...
    """
    known = [each for each in history if LIKELIHOOD in each.values]
    last = known[-patience - 1 :]
    likelihoods = [each.values[LIKELIHOOD] for each in last]
    if len(last) <= patience or any(later >= earlier for earlier, later in pairwise(likelihoods)):
        return None
    if known[0].values[LIKELIHOOD] - likelihoods[-1] < LEAST_FALL:
        return None
    return (
        f"the chosen responses of {last[-1].on} have become less likely for {patience} validations in a row: "
        f"{LIKELIHOOD} went from {_course(last, LIKELIHOOD)}{_why(last)}"
    )


def _why(last: Sequence[Measured]) -> str:
    margin = next((name for name in (MARGIN, REWARD_MARGIN) if all(name in each.values for each in last)), None)
    if margin is not None and last[-1].values[margin] > last[0].values[margin]:
        return (
            f", while {margin} rose from {last[0].values[margin]:.3g} to {last[-1].values[margin]:.3g} (likelihood "
            "displacement: the pairs are told apart by making both responses unlikely). Lower the learning rate, stop "
            "earlier, or let the likelihood weigh more: a smaller lambda_ of ORPO, a larger alpha of CPO, a larger "
            "beta of DPO and its kin"
        )
    return ", and no margin rose: the run is past its best. Stop earlier, or lower the learning rate"


def separated_pairs(history: Sequence[Measured], patience: int) -> str | None:
    """All pairs are told apart again and again, and the margin grows on.

    Args:
        history: what was measured on a validation set, or in training between validations, in order.
        patience: how many times in a row.

    Example:
        >>> margins = [0.5, 0.9, 1.4]
        >>> values = [{ACCURACY: 1.0, MARGIN: margin} for margin in margins]
        >>> history = [Measured(8 * i, "the training", each) for i, each in enumerate(values, 1)]
        >>> print(separated_pairs(history, patience=3))
        all pairs of the training are told apart, 3 times in a row, and their margin grows on: ...
    """
    known = [each for each in history if ACCURACY in each.values and MARGIN in each.values]
    mixed = [i for i, each in enumerate(known) if each.values[ACCURACY] < 1]
    last = known[mixed[-1] + 1 if mixed else 0 :]
    if len(last) < patience or last[-1].values[MARGIN] <= GROWTH * last[0].values[MARGIN]:
        return None
    return (
        f"all pairs of {last[-1].on} are told apart, {len(last)} times in a row, and their margin grows on: "
        f"{ACCURACY} stays at 1 and {MARGIN} went from {_course(last, MARGIN)}. Nothing is left to learn there but "
        "confidence: something simple may give the answer away (look at a few pairs with orpo-lightning data), or the "
        "pairs are known by heart. Stop earlier, or lower the learning rate"
    )


RULES: tuple[Rule, ...] = (falling_likelihood, separated_pairs)


def _course(history: Sequence[Measured], name: str) -> str:
    first, *_, last = history
    return (
        f"{first.values[name]:.3f} to {last.values[name]:.3f} nats/token between the steps {first.step:,} and "
        f"{last.step:,}"
    )
