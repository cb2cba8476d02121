"""Paired bootstrap intervals against closed forms, and by the share of them that hold the truth."""

import math
from dataclasses import astuple

import numpy as np
import pytest

from orpo_lightning.summary.intervals import Interval, bootstrap, paired_bootstrap, share_interval


def binomial_quantile(p, n, share):
    total = 0.0
    for k in range(n + 1):
        total += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= share:
            return k / n
    return 1.0


def test_a_gain_that_is_the_same_for_all_pairs_has_an_interval_of_one_point():
    before = np.random.default_rng(0).normal(size=40)
    found = paired_bootstrap(before, before + 0.25)
    assert found.gain.value == pytest.approx(0.25)
    assert (found.gain.low, found.gain.high) == (pytest.approx(0.25), pytest.approx(0.25))
    assert found.gain.excludes_zero
    # what pairs differ by is uncertainty of the values, not of their gain
    assert found.before.high - found.before.low > 0.3


def test_values_are_the_means_and_the_gain_is_their_difference():
    before, after = np.random.default_rng(1).normal(size=(2, 30))
    found = paired_bootstrap(before, after)
    assert found.before.value == pytest.approx(before.mean())
    assert found.after.value == pytest.approx(after.mean())
    assert found.gain.value == pytest.approx(after.mean() - before.mean())
    assert found.gain.low < found.gain.value < found.gain.high


def test_noise_around_zero_has_an_interval_that_includes_it():
    half = np.random.default_rng(2).normal(size=50)
    found = paired_bootstrap(np.zeros(100), np.concatenate([half, -half]))
    assert found.gain.value == pytest.approx(0, abs=1e-12)
    assert not found.gain.excludes_zero


@pytest.mark.parametrize(("wins", "n"), [(24, 40), (36, 40), (7, 14)])
def test_the_interval_of_an_accuracy_has_the_quantiles_of_the_binomial(wins, n):
    found = bootstrap([1.0] * wins + [0.0] * (n - wins), resamples=100_000)
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        # where a quantile falls on a step of the distribution, either side of it is right
        near = {binomial_quantile(wins / n, n, share + shift) for shift in (-0.002, 0.002)}
        assert min(abs(end - each) for each in near) < 1e-9


@pytest.mark.parametrize("n", [1, 12, 40])
def test_where_all_pairs_are_right_or_wrong_the_interval_is_the_exact_binomial_one(n):
    from scipy.stats import binomtest

    for share in (0.0, 1.0):
        expected = binomtest(int(share * n), n).proportion_ci(0.95, method="exact")
        found = share_interval([share] * n)
        assert astuple(found) == pytest.approx((share, expected.low, expected.high))


def test_of_a_mixed_share_it_is_that_of_the_bootstrap_and_unequal_weights_count_as_fewer_pairs():
    mixed = [1.0] * 9 + [0.0] * 3
    assert share_interval(mixed) == bootstrap(mixed)
    assert share_interval([1.0] * 20, [1.0] * 10 + [0.0] * 10) == share_interval([1.0] * 10)
    assert share_interval([1.0] * 12, [5.0] + [1.0] * 11).low < share_interval([1.0] * 12).low
    with pytest.raises(ValueError, match="a value of each pair"):
        share_interval([])


def test_the_interval_of_many_values_is_the_normal_one():
    values = np.random.default_rng(3).normal(1.0, 2.0, size=2000)
    found = bootstrap(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_about_95_of_100_intervals_hold_the_true_gain():
    generator = np.random.default_rng(4)
    held = 0
    for seed in range(400):
        before = generator.normal(size=60)
        found = paired_bootstrap(before, before + generator.normal(0.3, 1.0, size=60), seed=seed, resamples=500)
        held += found.gain.low <= 0.3 <= found.gain.high
    # 0.95 less the small-sample bias of the percentile interval, within three standard errors of 400 trials
    assert 0.90 <= held / 400 <= 0.98


def test_a_weight_is_as_good_as_that_many_copies_in_the_value():
    found = bootstrap([1.0, 4.0], weight=[3.0, 1.0])
    assert found.value == 1.75
    assert (found.low, found.high) == (1.0, 4.0)


def test_equal_weights_change_nothing():
    values = np.random.default_rng(5).normal(size=25)
    weighted, plain = bootstrap(values, weight=np.full(25, 2.0)), bootstrap(values)
    assert astuple(weighted) == pytest.approx(astuple(plain))


def test_the_same_seed_gives_the_same_interval_and_another_one_does_not():
    values = np.random.default_rng(6).normal(size=25)
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values, seed=1) != bootstrap(values)


def test_a_level_of_all_resamples_is_wider():
    values = np.random.default_rng(7).normal(size=25)
    narrow, wide = bootstrap(values, level=0.5), bootstrap(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], [1.0, 2.0]), (1.0, 2.0)])
def test_without_a_value_for_each_pair_there_is_no_interval(before, after):
    with pytest.raises(ValueError, match="a value of each pair"):
        paired_bootstrap(before, after)


@pytest.mark.parametrize(
    ("interval", "excludes"),
    [(Interval(0.2, 0.1, 0.3), True), (Interval(-0.2, -0.3, -0.1), True), (Interval(0.2, 0.0, 0.3), False)],
)
def test_an_interval_that_touches_zero_does_not_exclude_it(interval, excludes):
    assert interval.excludes_zero is excludes
