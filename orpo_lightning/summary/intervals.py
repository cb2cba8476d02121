"""How far a mean can be trusted: over validation pairs by a paired bootstrap, over repeats by Student's t.

Shape suffixes: P pairs, R resamples, M means that are taken of the same pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
LEVEL = 0.95
_DRAWS_AT_A_TIME = 1 << 20
"""Bounds the memory that resampling takes."""


@dataclass(frozen=True)
class Interval:
    """A value, and the range that it is in with the stated confidence.

    Args:
        value: the value.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of it is on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class PairedIntervals:
    """A mean before and after, and its gain, over the same pairs."""

    before: Interval
    after: Interval
    gain: Interval


def bootstrap(
    values: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """The percentile bootstrap interval of a weighted mean.

    Args:
        values: a value of each pair, ``(P,)``.
        weight: weights of the pairs, ``(P,)``; None weighs all the same.
        seed: of the resampling.
        resamples: how many sets of P pairs are drawn, with replacement.
        level: share of the resampled means that the interval holds.

    Raises:
        ValueError: there are no pairs.

    Example:
        >>> bootstrap([0.5, 0.5, 0.5])
        Interval(value=0.5, low=0.5, high=0.5)
    """
    (interval,) = _intervals([values], weight, seed, resamples, level)
    return interval


def share_interval(values: ArrayLike, weight: ArrayLike | None = None) -> Interval:
    """The interval of a share: the bootstrap's, and where all pairs are right, or all wrong, the exact binomial one of
    Clopper and Pearson (1934). Resampling them gives the same share again and again, as if it were certain.

    Args:
        values: 1 for each pair that counts, 0 for one that does not, 0.5 on a tie, ``(P,)``.
        weight: weights of the pairs, ``(P,)``; pairs of unequal weights count as fewer ones (Kish's effective size).

    Raises:
        ValueError: there are no pairs.

    Example:
        >>> share_interval([1.0] * 12)
        Interval(value=1.0, low=0.7353515306029488, high=1.0)
    """
    value_P = np.asarray(values, dtype=np.float64)
    of_all = next((share for share in (0.0, 1.0) if value_P.size and np.all(value_P == share)), None)
    if of_all is None:
        return bootstrap(values, weight)
    weight_P = np.ones(len(value_P)) if weight is None else np.asarray(weight, dtype=np.float64)
    size = float(weight_P.sum() ** 2 / (weight_P**2).sum())
    # the beta quantiles of the exact interval have this form where all are alike
    far = ((1 - LEVEL) / 2) ** (1 / size)
    return Interval(0.0, 0.0, 1 - far) if of_all == 0 else Interval(1.0, far, 1.0)


def paired_bootstrap(
    before: ArrayLike,
    after: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> PairedIntervals:
    """The percentile bootstrap intervals of a weighted mean before and after, and of its gain.

    Each resample draws pairs, and takes both values of each: what pairs differ by does not count as uncertainty of the
    gain.

    Args:
        before: a value of each pair, ``(P,)``.
        after: the later value of the same pairs, in the same order, ``(P,)``.
        weight: weights of the pairs, ``(P,)``; None weighs all the same.
        seed: of the resampling.
        resamples: how many sets of P pairs are drawn, with replacement.
        level: share of the resampled means that an interval holds.

    Raises:
        ValueError: there are no pairs, or not as many before as after.

    Example:
        >>> paired_bootstrap([0.0, 1.0, 4.0], [0.5, 1.5, 4.5]).gain
        Interval(value=0.5, low=0.5, high=0.5)
    """
    gain = np.subtract(after, before) if np.shape(before) == np.shape(after) else after
    return PairedIntervals(*_intervals([before, after, gain], weight, seed, resamples, level))


def student_interval(values: ArrayLike, *, level: float = LEVEL) -> Interval:
    """The interval of the mean of a few repeats that differ by chance alone, such as runs with other seeds.

    Args:
        values: one of each repeat.
        level: share of such intervals that hold the mean of all possible repeats, if these are about normal.

    Raises:
        ValueError: there are fewer than two.

    Example:
        >>> student_interval([0.5, 0.5])
        Interval(value=0.5, low=0.5, high=0.5)
    """
    from scipy.stats import t

    each = np.asarray(values, dtype=np.float64)
    if each.ndim != 1 or len(each) < 2:
        raise ValueError(f"an interval over repeats needs at least two of them, not {each.size}")
    half = float(t.ppf((1 + level) / 2, len(each) - 1)) * float(each.std(ddof=1)) / len(each) ** 0.5
    mean = float(each.mean())
    return Interval(mean, mean - half, mean + half)


def _intervals(
    columns: list[ArrayLike], weight: ArrayLike | None, seed: int, resamples: int, level: float
) -> list[Interval]:
    sizes = {np.shape(column) for column in columns}
    pairs = len(np.atleast_1d(columns[0]))
    if len(sizes) > 1 or len(np.shape(columns[0])) != 1 or not pairs:
        raise ValueError(f"an interval needs a value of each pair; accepted: equally long lists, not {sorted(sizes)}")
    weight_P = np.ones(pairs) if weight is None else np.asarray(weight, dtype=np.float64)
    weighted_MP = np.array(columns, dtype=np.float64) * weight_P
    means_MR = _resampled(weighted_MP, weight_P, seed, resamples)
    tail = (1 - level) / 2
    low_M, high_M = np.quantile(means_MR, [tail, 1 - tail], axis=1)
    value_M = weighted_MP.sum(axis=1) / weight_P.sum()
    return [Interval(float(v), float(a), float(b)) for v, a, b in zip(value_M, low_M, high_M, strict=True)]


def _resampled(
    weighted_MP: NDArray[np.float64], weight_P: NDArray[np.float64], seed: int, resamples: int
) -> NDArray[np.float64]:
    generator, pairs = np.random.default_rng(seed), len(weight_P)
    means, left = [], resamples
    while left:
        count = min(left, max(1, _DRAWS_AT_A_TIME // pairs))
        drawn_RP = generator.integers(pairs, size=(count, pairs), dtype=np.int32)
        total_R = weight_P[drawn_RP].sum(axis=1)
        means.append(np.stack([column_P[drawn_RP].sum(axis=1) / total_R for column_P in weighted_MP]))
        left -= count
    return np.concatenate(means, axis=1)
