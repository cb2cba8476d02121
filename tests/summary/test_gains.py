"""What may be said of a change, and what must not."""

import numpy as np
import pytest

from orpo_lightning.summary.gains import gains_of
from orpo_lightning.summary.intervals import Interval
from orpo_lightning.summary.pairs import PairMeasures
from orpo_lightning.summary.series import Series


def pairs(step, margins, name="", weight=1.0):
    return [
        PairMeasures(step, name, f"a:{i}", -2.0 + float(margin), -2.0, -6.0, -6.0, 3, 3, weight)
        for i, margin in enumerate(margins, start=1)
    ]


def gain_of(found, name):
    return next(gain for gain in found.gains if gain.name == name)


def series(**values):
    return {
        name: Series(np.array([step for step, _ in points]), np.array([value for _, value in points]))
        for name, points in values.items()
    }


NOISE = np.random.default_rng(0).normal(0, 0.1, size=40)


def test_a_gain_of_all_pairs_is_told_as_one():
    (found,) = gains_of([*pairs(0, NOISE), *pairs(24, NOISE + 0.5)], {})
    assert (found.pairs, found.last_step) == (40, 24)
    margin = gain_of(found, "margin")
    assert margin.change.value == pytest.approx(0.5)
    assert margin.verdict == "margin: rose, the interval of its gain is above 0"
    accuracy = gain_of(found, "accuracy")
    assert accuracy.after.value == 100
    assert accuracy.after.low == pytest.approx(100 * 0.025 ** (1 / 40))  # of 40 of 40, exactly
    assert accuracy.before.value == pytest.approx(100 * (NOISE > 0).mean())


def test_a_loss_of_all_pairs_is_told_as_one():
    (found,) = gains_of([*pairs(0, NOISE), *pairs(24, NOISE - 0.5)], {})
    assert gain_of(found, "margin").verdict == "margin: fell, the interval of its gain is below 0"


def test_no_improvement_is_claimed_where_the_interval_includes_zero():
    (found,) = gains_of([*pairs(0, NOISE), *pairs(24, NOISE[::-1])], {})
    assert gain_of(found, "margin").verdict == "margin: no clear change, the interval of its gain includes 0"


def test_of_several_validations_the_first_and_the_last_are_compared():
    (found,) = gains_of([*pairs(0, NOISE), *pairs(8, NOISE + 9), *pairs(16, NOISE + 0.25)], {})
    assert gain_of(found, "margin").change.value == pytest.approx(0.25)
    assert found.last_step == 16


def test_only_the_pairs_that_both_validations_measured_are_compared():
    (found,) = gains_of([*pairs(0, NOISE), *pairs(24, (NOISE + 0.5)[:25])], {})
    assert found.pairs == 25
    assert gain_of(found, "margin").before.value == pytest.approx(NOISE[:25].mean())


def test_a_few_pairs_have_values_and_no_intervals():
    (found,) = gains_of([*pairs(0, [0.0] * 9), *pairs(2, [0.5] * 9)], {})
    margin = gain_of(found, "margin")
    assert (margin.before, margin.after, margin.change) == (0.0, 0.5, 0.5)
    assert margin.verdict is None


def test_rows_weigh_what_the_data_says():
    before = [*pairs(0, [0.0] * 10, weight=3.0), *pairs(0, [1.0] * 10, weight=1.0)]
    (found,) = gains_of(before, {})
    assert gain_of(found, "margin").before.value == pytest.approx(0.25)


def test_without_a_validation_before_the_first_step_there_is_no_before():
    (found,) = gains_of(pairs(8, NOISE), {})
    margin = gain_of(found, "margin")
    assert margin.before is None
    assert margin.change is None
    assert isinstance(margin.after, Interval)
    assert not found.has_before
    assert found.has_after


def test_without_a_validation_after_it_there_is_no_after():
    (found,) = gains_of(pairs(0, NOISE), {})
    assert found.has_before
    assert not found.has_after
    assert gain_of(found, "margin").verdict is None


def test_the_likelihood_comes_from_the_measures_and_has_no_interval():
    measures = series(**{"val/nll_response": [(0, 2.5), (8, 2.2), (24, 2.0)]})
    (found,) = gains_of([*pairs(0, NOISE), *pairs(24, NOISE)], measures)
    nll = gain_of(found, "nll_response")
    assert (nll.before, nll.after, nll.change) == (2.5, 2.0, -0.5)


def test_without_pairs_the_rewards_are_compared():
    measures = series(**{"val/nll_response": [(0, 2.5), (24, 2.0)], "val/rewards/margins": [(0, 0.0), (24, 0.3)]})
    (found,) = gains_of([], measures)
    assert found.pairs == 0
    assert [gain.name for gain in found.gains] == ["nll_response", "rewards/margins"]


def test_validation_sets_are_told_apart():
    rows = [*pairs(0, NOISE, "helpful"), *pairs(0, NOISE, "harmless"), *pairs(8, NOISE + 1, "helpful")]
    rows += pairs(8, NOISE, "harmless")
    measures = series(**{f"val/{name}/nll_response": [(0, 2.5), (8, 2.0)] for name in ("helpful", "harmless", "more")})
    found = {each.set: each for each in gains_of(rows, measures)}
    assert list(found) == ["helpful", "harmless", "more"]
    assert gain_of(found["helpful"], "margin").change.value == pytest.approx(1)
    assert gain_of(found["harmless"], "margin").change.value == 0
    assert [gain.name for gain in found["more"].gains] == ["nll_response"]
