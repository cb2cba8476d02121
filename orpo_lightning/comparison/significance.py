"""Whether two runs differ on the same validation pairs by more than chance.

Shape suffixes: P pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orpo_lightning.comparison.measures import MEASURES, Measure
from orpo_lightning.comparison.runs import Run
from orpo_lightning.summary.intervals import Interval, paired_bootstrap, share_interval
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
        difference: of the means over the pairs, run less baseline, with the paired bootstrap interval of this one
            comparison.
        p: probability of a difference this large if each pair's two values were swapped by the toss of a coin; adjusted
            by Holm for the number of runs that are compared with the baseline.
        p_unadjusted: the same of this one comparison.
    """

    run: str
    baseline: str
    measure: str
    pairs: int
    difference: Interval
    p: float
    p_unadjusted: float


@dataclass(frozen=True)
class Tested:
    """The tests of runs against a baseline.

    Args:
        tests: by measure, then in the order of the runs.
        untested: why a run is in none of them, by its name.
    """

    tests: Sequence[PairedTest]
    untested: Mapping[str, str]


def paired_tests(runs: Sequence[Run], baseline: Run, of_set: str) -> Tested:
    """Compare the measures of each run with those of a baseline, after the last validation of each.

    A pair is the same if the tokens of its prompt and responses are. Where a run is of a version that did not note
    them, it is the same if its row and the numbers of tokens of both responses are.

    Args:
        runs: to compare; the baseline among them is left out.
        baseline: what with.
        of_set: name of the validation set.
    """
    tests: list[PairedTest] = []
    others = [run for run in runs if run is not baseline]
    common = {run.name: _common(run.last_pairs(of_set), baseline.last_pairs(of_set)) for run in others}
    untested = {name: why for name, pairs in common.items() if (why := _why_untested(pairs, baseline.name)) is not None}
    for measure in MEASURES.values():
        tests += _adjusted(
            [_test(name, baseline.name, measure, pairs) for name, pairs in common.items() if name not in untested]
        )
    return Tested(tests, untested)


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


_Common = Sequence[tuple[PairMeasures, PairMeasures]]


def _common(pairs: Sequence[PairMeasures], others: Sequence[PairMeasures]) -> _Common:
    """The pairs that both measured, each beside its other self."""
    has_content = all(pair.content for pair in (*pairs, *others))
    mine, theirs = (_by_identity(each, has_content) for each in (pairs, others))
    return [(pair, theirs[identity]) for identity, pair in mine.items() if identity in theirs]


def _by_identity(pairs: Sequence[PairMeasures], has_content: bool) -> dict[Hashable, PairMeasures]:
    found: dict[Hashable, PairMeasures] = {}
    seen: Counter[Hashable] = Counter()
    for pair in pairs:
        identity = pair.content if has_content else (pair.row_id, pair.chosen_tokens, pair.rejected_tokens)
        found[identity, seen[identity]] = pair  # a pair that the data repeats is told by its number
        seen[identity] += 1
    return found


def _why_untested(common: _Common, baseline: str) -> str | None:
    if not common:
        return f"no validation pair in common with {baseline}"
    values = [(pair.margin, other.margin, pair.nll_response, other.nll_response) for pair, other in common]
    return None if np.isfinite(values).all() else f"its values, or those of {baseline}, are not all numbers"


def _test(run: str, baseline: str, measure: Measure, common: _Common) -> PairedTest:
    after, before = (measure.values(each) for each in zip(*common, strict=True))
    weight = measure.weights([pair for pair, _ in common])
    gain = paired_bootstrap(before, after, weight).gain
    if measure.is_share and not np.any(after - before):
        # no pair differs, which leaves open how rarely one would: no difference is larger than the share that does
        most = share_interval(np.zeros(len(common)), weight).high
        gain = Interval(0.0, -most, most)
    p = sign_flip_p(after - before, weight)
    return PairedTest(run, baseline, measure.name, len(common), gain, p, p)


def _adjusted(tests: list[PairedTest]) -> list[PairedTest]:
    """The tests with the p values of Holm (1979): the i-th smallest of m times m - i + 1, never falling, at most 1."""
    order = sorted(range(len(tests)), key=lambda i: tests[i].p_unadjusted)
    largest, adjusted = 0.0, {}
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, tests[i].p_unadjusted * (len(tests) - rank)))
        adjusted[i] = largest
    return [replace(each, p=adjusted[i]) for i, each in enumerate(tests)]
