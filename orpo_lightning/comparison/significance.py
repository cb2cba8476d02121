"""Whether two runs differ on the same validation pairs by more than chance.

Shape suffixes: P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orpo_lightning.comparison.runs import Run
from orpo_lightning.summary.intervals import Interval, paired_bootstrap
from orpo_lightning.summary.pairs import PairMeasures

_RESAMPLES = 9_999


@dataclass(frozen=True)
class PairedTest:
    """The difference of two runs in a measure of the same pairs.

    Args:
        run: name of the run.
        baseline: name of the run that it is compared with.
        measure: what is compared.
        pairs: how many pairs both measured.
        difference: of the means over the pairs, run less baseline, with a paired bootstrap interval.
        p: probability of a difference this large if each pair's two values were swapped by the toss of a coin; adjusted
            by Holm for the number of runs that are compared with the baseline.
    """

    run: str
    baseline: str
    measure: str
    pairs: int
    difference: Interval
    p: float


def paired_tests(runs: Sequence[Run], baseline: Run, of_set: str) -> list[PairedTest]:
    """Compare the accuracy and the margin of each run with those of a baseline, after the last validation of each.

    Runs without a pair in common with the baseline are left out. A pair is the same if its row and the numbers of
    tokens of both responses are.

    Args:
        runs: to compare; the baseline among them is left out.
        baseline: what with.
        of_set: name of the validation set.
    """
    tests: list[PairedTest] = []
    for measure in ("accuracy", "margin"):
        found = [_test(run, baseline, measure, of_set) for run in runs if run is not baseline]
        tests += _adjusted([test for test in found if test is not None])
    return tests


def sign_flip_p(difference: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """Two-sided p value of a mean difference: how often random signs give one as large; exact for few pairs.

    Args:
        difference: of each pair, ``(P,)``.
        weight: of each pair, ``(P,)``.

    Example:
        >>> sign_flip_p(np.array([1.0, 1.0, 1.0]), np.ones(3))  # 2 of the 8 ways to set the signs
        0.25
    """
    from scipy.stats import permutation_test

    def mean(one: NDArray[np.float64], other: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        total: NDArray[np.float64] = ((one - other) * weight).sum(axis=axis) / weight.sum()
        return total

    if len(difference) == 1:  # either sign is as likely
        return 1.0
    found = permutation_test(
        (difference, np.zeros_like(difference)),
        mean,
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        vectorized=True,
        batch=256,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _test(run: Run, baseline: Run, measure: str, of_set: str) -> PairedTest | None:
    others = {_identity(pair): pair for pair in baseline.last_pairs(of_set)}
    both = [(pair, others[_identity(pair)]) for pair in run.last_pairs(of_set) if _identity(pair) in others]
    if not both:
        return None
    after, before = (np.array([getattr(pair, measure) for pair in each]) for each in zip(*both, strict=True))
    weight = np.array([pair.weight for pair, _ in both])
    gain = paired_bootstrap(before, after, weight).gain
    return PairedTest(run.name, baseline.name, measure, len(both), gain, sign_flip_p(after - before, weight))


def _identity(pair: PairMeasures) -> tuple[str, int, int]:
    return pair.row_id, pair.chosen_tokens, pair.rejected_tokens


def _adjusted(tests: list[PairedTest]) -> list[PairedTest]:
    """The tests with the p values of Holm (1979): the i-th smallest of m times m - i + 1, never falling, at most 1."""
    order = sorted(range(len(tests)), key=lambda i: tests[i].p)
    largest, adjusted = 0.0, {}
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, tests[i].p * (len(tests) - rank)))
        adjusted[i] = largest
    return [
        PairedTest(each.run, each.baseline, each.measure, each.pairs, each.difference, adjusted[i])
        for i, each in enumerate(tests)
    ]
