"""Early termination: at each band the best 1/eta of those that came as far go on."""

import pytest
from hypothesis import given, strategies as st

from orpo_lightning.sweep.early import EarlyTermination

HISTORIES = st.lists(st.lists(st.integers(0, 9).map(float), max_size=12), max_size=12)


def stopped(rule, histories):
    """Which of the trials are to be stopped, each judged beside all others."""
    return [rule.stops(each, histories[:i] + histories[i + 1 :]) for i, each in enumerate(histories)]


def test_of_eight_trials_the_better_half_passes_the_first_band_and_nobody_is_judged_before():
    rule = EarlyTermination((2, 4), eta=2, strict=True)
    assert stopped(rule, [[9.0, float(value)] for value in range(8)]) == [False] * 5 + [True] * 3  # the threshold stays
    assert stopped(rule, [[float(value)] for value in range(8)]) == [False] * 8


def test_the_first_trial_to_reach_a_band_goes_on():
    rule = EarlyTermination((2, 4), eta=3, strict=True)
    assert not rule.stops([5.0, 5.0], [])
    assert not rule.stops([5.0, 5.0], [[1.0]])
    assert rule.stops([5.0, 5.0], [[1.0, 1.0]])


def test_a_trial_that_passed_is_judged_again_when_others_have_come_as_far():
    rule = EarlyTermination((1, 4), eta=2, strict=True)
    assert not rule.stops([5.0, 5.0], [])
    assert rule.stops([5.0, 5.0], [[1.0], [2.0]])


def test_past_a_band_it_is_judged_by_the_last_one_reached():
    rule = EarlyTermination((1, 3), eta=2, strict=True)
    assert rule.stops([9.0, 9.0], [[1.0], [2.0]])
    assert not rule.stops([9.0, 9.0, 1.0], [[1.0, 5.0, 5.0], [2.0, 5.0, 5.0]])


def test_not_strict_the_best_value_up_to_now_counts():
    others = [[9.0, 2.0, 9.0], [9.0, 3.0, 9.0], [9.0, 4.0, 9.0]]
    history = [9.0, 8.0, 1.0]
    assert EarlyTermination((2,), eta=2, strict=True).stops(history, others)
    assert not EarlyTermination((2,), eta=2, strict=False).stops(history, others)


@given(HISTORIES, st.sampled_from([1.5, 2.0, 3.0, 4.0]), st.booleans())
def test_whatever_is_logged_a_band_leaves_at_least_the_best_1_in_eta_and_who_is_first_is_never_stopped(
    histories, eta, strict
):
    rule = EarlyTermination((1, 3, 9), eta, strict)
    verdicts = stopped(rule, histories)
    assert not any(stops for stops, each in zip(verdicts, histories, strict=True) if not each)
    for low, high in ((1, 3), (3, 9), (9, 99)):
        there = [stops for stops, each in zip(verdicts, histories, strict=True) if low <= len(each) < high]
        ahead = [each for each in histories if len(each) >= high]
        if there and not ahead:
            assert there.count(False) >= len(there) / eta


@pytest.mark.parametrize("strict", [True, False])
def test_equal_trials_all_go_on(strict):
    assert not any(stopped(EarlyTermination((1, 2, 4), 3, strict), [[0.5] * 5 for _ in range(6)]))
