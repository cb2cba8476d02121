"""What a trial is run with: a grid in its order, chance that never repeats itself, a search that uses the history."""

import math
import statistics
from collections import Counter
from dataclasses import replace

import pytest
from helpers import slow

from orpo_lightning.sweep.command import Command
from orpo_lightning.sweep.distributions import Choice, LogNumbers, Multiples, Numbers, WholeNumbers
from orpo_lightning.sweep.file import Metric, Sweep
from orpo_lightning.sweep.record import Trial, read_trials, write_trial
from orpo_lightning.sweep.suggest import RANDOM_TRIALS, suggest

ALL = {
    "choice": Choice(("a", ["b", "c"], None)),
    "constant": Choice((7,)),
    "log": LogNumbers(0.01, 100.0),
    "multiples": Multiples(0.1, 0.5, 0.1),
    "numbers": Numbers(-1.0, 2.0),
    "whole": WholeNumbers(3, 5),
}
BEST = 0.3


def sweep_of(method, parameters, goal="maximize"):
    return Sweep("s", method, parameters, Command(("fit", "${args}")), Metric("m", goal))


def draws(method, parameters, count, seed=0):
    sweep = sweep_of(method, parameters)
    return [suggest(sweep, seed, number, ()).parameters for number in range(count)]


def searched(measure, count, seed, method="bayes", goal="maximize", workers=1):
    """The trials of a sweep whose fits are a function, so many of which run at once."""
    sweep, trials = sweep_of(method, {"lambda_": LogNumbers(0.01, 10.0)}, goal), []
    for number in range(count):
        found = suggest(sweep, seed, number, trials)
        trials.append(Trial(number, found.parameters, found.drawn))
        ready = number - workers + 1
        if ready >= 0:
            trials[ready] = measure(trials[ready])
    return [measure(trial) for trial in trials]


def distance(trial):
    return abs(math.log(trial.parameters["lambda_"] / BEST))


def hump(trial):
    return replace(trial, state="complete", value=math.exp(-(distance(trial) ** 2)))


def test_a_grid_is_the_product_in_the_order_of_the_names_the_last_one_fastest():
    grid = {"a": Choice((2, 1)), "b": WholeNumbers(0, 1), "c": Choice(("x",))}
    assert sweep_of("grid", grid).grid_size == 4
    assert draws("grid", grid, 4) == [
        {"a": 2, "b": 0, "c": "x"},
        {"a": 2, "b": 1, "c": "x"},
        {"a": 1, "b": 0, "c": "x"},
        {"a": 1, "b": 1, "c": "x"},
    ]


def check_kinds(values):
    assert values["choice"] in ALL["choice"].values
    assert values["constant"] == 7
    assert 0.01 <= values["log"] <= 100
    assert values["multiples"] in (0.1, 0.2, 0.3, 0.4, 0.5)
    assert -1 <= values["numbers"] <= 2
    assert values["whole"] in (3, 4, 5)
    assert isinstance(values["whole"], int)


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_what_is_drawn_lies_in_its_range_and_is_of_its_kind(method):
    for values in draws(method, ALL, 20):
        check_kinds(values)


def test_draws_are_spread_as_the_distributions_say():
    values = draws("random", ALL, 400)
    quarters = Counter(int(math.log(each["log"] / 0.01) / math.log(10_000) * 4) for each in values)
    assert all(70 < quarters[quarter] < 130 for quarter in range(4))  # 100 each, 3.4 standard deviations
    assert abs(statistics.mean(each["numbers"] for each in values) - 0.5) < 0.15
    for name, count in (("whole", 3), ("multiples", 5)):
        assert all(abs(n - 400 / count) < 45 for n in Counter(each[name] for each in values).values())


def test_the_seed_and_the_number_decide_so_that_a_sweep_that_goes_on_does_not_repeat_what_it_drew():
    first = draws("random", {"x": Numbers(0.0, 1.0)}, 50)
    assert first == draws("random", {"x": Numbers(0.0, 1.0)}, 50)
    assert len({each["x"] for each in first}) == 50
    assert not {each["x"] for each in first} & {each["x"] for each in draws("random", {"x": Numbers(0.0, 1.0)}, 50, 1)}


def test_bayes_goes_on_from_its_records_as_if_it_had_not_been_stopped(tmp_path):
    whole = searched(hump, 8, seed=3)
    for trial in whole[:7]:
        write_trial(tmp_path / trial.name, trial)
    again = suggest(sweep_of("bayes", {"lambda_": LogNumbers(0.01, 10.0)}), 3, 7, read_trials(tmp_path))
    assert again.parameters == whole[7].parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("goal", "workers"), [("maximize", 1), slow("minimize", 1), slow("maximize", 2), slow("minimize", 2)]
)
def test_bayes_uses_the_history_and_comes_nearer_to_the_best_than_chance(goal, workers):
    def measure(trial):
        complete = hump(trial)
        return complete if goal == "maximize" else replace(complete, value=-complete.value)

    def mean_distance(method):
        found = [searched(measure, 14, seed, method, goal, workers)[RANDOM_TRIALS + workers :] for seed in range(5)]
        return statistics.mean(distance(trial) for trials in found for trial in trials)

    assert mean_distance("bayes") < 0.5 * mean_distance("random")


def test_bayes_begins_at_random_and_then_depends_on_what_the_trials_have_shown():
    def turned(trial):
        return replace(trial, state="complete", value=-hump(trial).value)

    one, other = searched(hump, RANDOM_TRIALS + 2, seed=0), searched(turned, RANDOM_TRIALS + 2, seed=0)
    same = [a.parameters == b.parameters for a, b in zip(one, other, strict=True)]
    assert same == [True] * RANDOM_TRIALS + [False] * 2


@pytest.mark.slow
def test_bayes_keeps_away_from_where_trials_fail():
    state = "failed"

    def breaks_above_one(trial):
        return replace(trial, state=state) if trial.parameters["lambda_"] > 1 else hump(trial)

    later = [trial for seed in range(4) for trial in searched(breaks_above_one, 12, seed)[RANDOM_TRIALS:]]
    chance = [trial for seed in range(4) for trial in searched(breaks_above_one, 12, seed, "random")[RANDOM_TRIALS:]]
    assert sum(trial.state == state for trial in later) < 0.5 * sum(trial.state == state for trial in chance)


def with_history(parameters, measure, count=RANDOM_TRIALS + 3, seed=0):
    """A search whose last trials come of the Gaussian process."""
    sweep, trials = sweep_of("bayes", parameters), []
    for number in range(count):
        found = suggest(sweep, seed, number, trials)
        trials.append(measure(Trial(number, found.parameters, found.drawn)))
    return trials


def test_what_the_gaussian_process_draws_of_all_kinds_at_once_lies_in_its_range_and_is_of_its_kind():
    def measure(trial):
        values = trial.parameters
        value = (values["choice"] == "a") + values["numbers"] + values["multiples"] - abs(math.log10(values["log"]))
        return replace(trial, state="complete", value=value + values["whole"] / 5)

    later = with_history(ALL, measure)[RANDOM_TRIALS:]
    assert [trial.number for trial in later] == [5, 6, 7]
    for trial in later:
        check_kinds(trial.parameters)
    random = draws("bayes", ALL, RANDOM_TRIALS + 3)[RANDOM_TRIALS:]
    assert [trial.parameters for trial in later] != random


def test_a_trial_that_was_pruned_counts_by_the_value_it_had_reached_and_one_that_failed_as_the_worst():
    def last(state, value):
        """The suggestion after a trial at the same place of each history."""
        known = [hump(trial) for trial in searched(hump, RANDOM_TRIALS + 1, seed=2)]
        known[-1] = replace(known[-1], state=state, value=value)
        return suggest(sweep_of("bayes", {"lambda_": LogNumbers(0.01, 10.0)}), 2, len(known), known).parameters

    trials = searched(hump, RANDOM_TRIALS + 1, seed=2)
    worst = min(trial.value for trial in trials[:-1])
    value = trials[-1].value
    assert value > worst
    assert last("pruned", value) == last("complete", value)
    assert last("failed", None) == last("pruned", None) == last("complete", worst) != last("complete", value)


def test_two_trials_that_run_at_once_are_not_the_same():
    trials = searched(hump, 10, seed=0, workers=2)
    pairs = zip(trials[RANDOM_TRIALS:], trials[RANDOM_TRIALS + 1 :], strict=False)
    assert all(one.parameters != other.parameters for one, other in pairs)


def test_where_all_trials_have_failed_the_next_is_drawn_at_random():
    trials = [Trial(i, {"x": 0.5}, {"x": 0.5}, "failed") for i in range(9)]
    assert 0 <= suggest(sweep_of("bayes", {"x": Numbers(0.0, 1.0)}), 0, 9, trials).parameters["x"] <= 1
