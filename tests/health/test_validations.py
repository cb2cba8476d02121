"""What is said of validations in a row: what it takes to be said, and that nothing less is."""

import pytest

from orpo_lightning.health.validations import (
    ACCURACY,
    LEAST_FALL,
    LIKELIHOOD,
    MARGIN,
    REWARD_MARGIN,
    Measured,
    falling_likelihood,
    separated_pairs,
)


def history(*values, on="the validation"):
    return [Measured(8 * i, on, dict(each)) for i, each in enumerate(values)]


def with_margins(likelihoods, margins, name=MARGIN):
    return history(*({LIKELIHOOD: a, name: b} for a, b in zip(likelihoods, margins, strict=True)))


def test_a_likelihood_that_falls_while_the_margin_rises_is_displacement():
    sentence = falling_likelihood(with_margins([-1.0, -1.1, -1.2, -1.3], [0.1, 0.2, 0.3, 0.4]), 3)
    assert sentence.startswith("the chosen responses of the validation have become less likely for 3 validations in a")
    assert "logps_mean/chosen went from -1.000 to -1.300 nats/token between the steps 0 and 24" in sentence
    assert "while pref/margins rose from 0.1 to 0.4 (likelihood displacement" in sentence
    assert "lambda_ of ORPO" in sentence


def test_without_pairs_the_margin_is_that_of_the_rewards():
    found = with_margins([-1.0, -1.1, -1.2, -1.3], [0.0, 0.2, 0.3, 0.4], REWARD_MARGIN)
    assert "while rewards/margins rose from 0 to 0.4" in falling_likelihood(found, 3)


def test_a_likelihood_that_falls_while_no_margin_rises_is_past_its_best():
    sentence = falling_likelihood(with_margins([-1.0, -1.1, -1.2, -1.3], [0.1, 0.2, 0.1, 0.1]), 3)
    assert "the run is past its best" in sentence
    assert "displacement" not in sentence


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([-1.0, -1.1, -1.2], "two falls are not three"),
        ([-1.0, -1.1, -1.2, -1.2], "the last is none"),
        ([-1.0, -1.1, -1.05, -1.2, -1.3], "it has risen in between"),
        ([-2.0, -1.0, -1.1, -1.2, -1.3], "it is above where it began"),
        ([-1.0, -1.01, -1.02, -1.03], "it is less than is worth a word"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_less_than_that_is_not_said(values, why):
    assert LEAST_FALL > 0.03
    assert falling_likelihood(history(*({LIKELIHOOD: each} for each in values)), 3) is None, why


def test_patience_is_how_many_falls_it_takes():
    falls = history(*({LIKELIHOOD: each} for each in (-1.0, -1.1, -1.2)))
    assert falling_likelihood(falls, 2) is not None
    assert falling_likelihood(falls, 3) is None


def test_what_was_not_measured_is_not_looked_at():
    assert falling_likelihood(history(*[{ACCURACY: 1.0}] * 5), 3) is None
    assert separated_pairs(history(*[{LIKELIHOOD: -1.0}] * 5), 3) is None


def separated(accuracies, margins):
    return separated_pairs(
        history(*({ACCURACY: a, MARGIN: b} for a, b in zip(accuracies, margins, strict=True)), on="the training"), 3
    )


def test_pairs_that_are_all_told_apart_are_said_when_the_margin_more_than_doubles():
    sentence = separated([0.9, 1, 1, 1, 1], [0.3, 0.5, 0.7, 0.9, 1.2])
    assert sentence.startswith("all pairs of the training are told apart, 4 times in a row")
    assert "pref/margins went from 0.500 to 1.200 nats/token between the steps 8 and 32" in sentence


@pytest.mark.parametrize(
    ("accuracies", "margins", "why"),
    [
        ([1, 1], [0.5, 1.5], "two are not three"),
        ([1, 1, 1], [0.5, 0.7, 1.0], "twice is not more than that"),
        ([1, 1, 0.975, 1, 1], [0.1, 0.5, 0.7, 1.0, 2.0], "a pair was wrong in between"),
        ([1, 1, 1, 0.975], [0.1, 0.5, 0.7, 1.0], "a pair is wrong in the end"),
        ([0.975] * 4, [0.1, 0.5, 0.7, 1.0], "a pair is always wrong"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fewer_pairs_or_a_smaller_growth_are_not_said(accuracies, margins, why):
    assert separated(accuracies, margins) is None, why
