"""What is said at the start of a fit: what it takes to be said, and that nothing less is."""

import math

import pytest

from orpo_lightning import OptimizerConfig, ScheduleConfig
from orpo_lightning.health.start import no_gradient, rate_of_zero, still_warming_up, worse_than_guessing


def test_a_warmup_that_outlasts_the_run_is_said_with_the_rate_that_is_reached():
    sentence = still_warming_up(ScheduleConfig(warmup=40), OptimizerConfig(lr=1e-3), total_steps=20)
    assert "model.schedule.warmup is 40 steps and the run has 20" in sentence
    assert "its last step has the rate 0.0005 and the peak is 0.001" in sentence


@pytest.mark.parametrize(("warmup", "steps", "is_said"), [(20, 20, True), (19, 20, False), (2, 1, True), (1, 1, False)])
def test_a_warmup_is_said_where_it_has_no_step_after_it(warmup, steps, is_said):
    assert (still_warming_up(ScheduleConfig(warmup=warmup), OptimizerConfig(), steps) is not None) is is_said


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
def test_the_default_warmup_ends_in_every_run(steps):
    assert still_warming_up(ScheduleConfig(), OptimizerConfig(), steps) is None


def test_a_rate_and_a_gradient_of_zero_are_said():
    assert "model.optimizer.lr is 0" in rate_of_zero(OptimizerConfig(lr=0.0))
    assert rate_of_zero(OptimizerConfig(lr=1e-12)) is None
    assert "the gradient of the first step is 0" in no_gradient(0.0)
    assert no_gradient(1e-12) is None
    # a gradient scaler may skip such a step
    assert no_gradient(math.inf) is None


@pytest.mark.parametrize("vocabulary", [97, 1024, 49_152])
def test_a_model_that_guesses_is_not_said_to_be_worse_than_one(vocabulary):
    guess = math.log(vocabulary)
    # the logits of random weights scatter: by half of their variance the entropy is above that of a guess
    assert worse_than_guessing(1.03 * guess, vocabulary) is None
    sentence = worse_than_guessing(1.14 * guess, vocabulary)
    assert f"nll_response is {1.14 * guess:.2f} nats/token" in sentence
    assert f"a guess among all {vocabulary:,} tokens is {guess:.2f}" in sentence
