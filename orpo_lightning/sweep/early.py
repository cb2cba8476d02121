"""Early termination by the rule of Weights & Biases: at certain numbers of logged values only the best go on.

Optuna has no pruner with this rule. Its ``SuccessiveHalvingPruner`` judges a trial once at each rung, by those that
came there before it, and promotes fewer; its ``HyperbandPruner`` spreads the trials over several brackets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orpo_lightning.sweep.block import Block

_LONGEST = 10**9
"""More values than any trial logs."""


@dataclass(frozen=True)
class EarlyTermination:
    """When a trial is stopped that is behind the others.

    Args:
        bands: numbers of logged values of the metric at which a trial is judged, ascending.
        eta: the best 1/eta of those that came as far go on.
        strict: judge by the value at the band; else by the best value up to now.
    """

    bands: tuple[int, ...]
    eta: float
    strict: bool

    def stops(self, history: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
        """Whether a trial is to be stopped now.

        It is judged at the last band that it has reached, again and again: a trial that was good enough may not be any
        more when others have come as far.

        Args:
            history: the values that it has logged, of which smaller ones are better.
            others: those of all other trials, whatever became of them.

        Example:
            >>> rule = EarlyTermination(bands=(2, 4), eta=2, strict=False)
            >>> others = [[9.0, 1.0], [9.0, 2.0], [9.0, 3.0]]
            >>> [rule.stops([9.0, value], others) for value in (0.5, 2.5, 3.5)]
            [False, False, True]
            >>> rule.stops([9.0], others)
            False
        """
        band = max((band for band in self.bands if band <= len(history)), default=None)
        if band is None:
            return False
        there = sorted(each[band - 1] for each in (history, *others) if len(each) >= band)
        threshold = there[int(len(there) / self.eta)]
        return (history[band - 1] if self.strict else min(history)) > threshold


def read_early_termination(block: Block) -> EarlyTermination:
    """The rule of a sweep file.

    Args:
        block: the mapping ``early_terminate``.

    Raises:
        ValueError: it is another rule, or one without a band.
    """
    block.only(("type", "min_iter", "max_iter", "s", "eta", "strict"))
    block.one_of("type", ("hyperband",), "")
    strict = block.value("strict") if "strict" in block else True
    if not isinstance(strict, bool):
        raise block.mistake("strict", f"= {strict!r} is not one; accepted: true, false")
    eta = block.above("eta", 1, 3)
    if "max_iter" in block:
        if "s" not in block:
            raise block.mistake("max_iter", "needs s, the number of bands below it; or set min_iter alone")
        bands = _down_from(block.whole("max_iter", 1), eta, block.whole("s", 1))
    elif "min_iter" in block:
        bands = _up_from(block.whole("min_iter", 1), eta)
    else:
        raise block.mistake("", "has no band; accepted: min_iter, or max_iter and s")
    if not bands:
        raise block.mistake("max_iter", f"= {block.value('max_iter')} has no band below it: it is at most eta = {eta}")
    return EarlyTermination(bands, eta, strict)


def _up_from(first: int, eta: float) -> tuple[int, ...]:
    bands, band = [], float(first)
    while band < _LONGEST:
        bands.append(int(band))
        band *= eta
    return tuple(dict.fromkeys(bands))


def _down_from(last: int, eta: float, count: int) -> tuple[int, ...]:
    bands = [last / eta**number for number in range(1, count + 1)]
    return tuple(sorted({int(band) for band in bands if band >= 1}))
