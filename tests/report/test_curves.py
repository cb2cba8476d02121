"""The curves of a report hold what metrics.csv holds, over the steps, tokens or operations that it took."""

import numpy as np
import pytest
from comparison_runs import make_run

from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.report.curves import MOST_POINTS, objective_curves, shared_curves, work_until


def run_of(folder, metrics):
    make_run(folder, metrics=metrics)
    (run,) = read_runs([str(folder)])
    return run


def training(steps, name="train/pref/margins", tokens=100.0):
    """A row of each step, whose value is the step, with the work up to its end."""
    return {
        step: {name: float(step), "work/total_tokens": tokens * (step + 1), "work/total_tflop": 2.0 * (step + 1)}
        for step in range(steps)
    }


def traces(plots, key):
    (plot,) = (plot for plot in plots if plot.key == key)
    return {(trace.kind, trace.role): trace for trace in plot.traces}


def test_chosen_and_rejected_are_two_lines_of_training_and_two_of_validation(tmp_path):
    metrics = {step: {"train/logps_mean/chosen": -2.0, "train/logps_mean/rejected": -3.0} for step in range(4)}
    metrics |= {4: {"val/logps_mean/chosen": -1.0, "val/logps_mean/rejected": -4.0}}
    metrics[0] |= {"val/logps_mean/chosen": -2.5, "val/logps_mean/rejected": -2.75}
    found = traces(shared_curves([run_of(tmp_path / "a", metrics)], ""), "log_probabilities")
    assert {place: trace.y for place, trace in found.items()} == {
        ("training", "chosen"): (-2.0, -2.0, -2.0, -2.0),
        ("training", "rejected"): (-3.0, -3.0, -3.0, -3.0),
        ("validation", "chosen"): (-2.5, -1.0),
        ("validation", "rejected"): (-2.75, -4.0),
    }
    assert found["validation", "chosen"].x == ((0.0, 4.0),)
    assert found["training", "chosen"].x == ((0.0, 1.0, 2.0, 3.0),)


def test_what_is_measured_of_the_weights_lies_after_the_work_of_the_steps_before_it(tmp_path):
    metrics = training(4)
    metrics[0]["val/pref/margins"], metrics[2]["val/pref/margins"] = 0.5, 1.5
    metrics[4] = {"val/pref/margins": 2.5}
    run = run_of(tmp_path / "a", metrics)
    (plot,) = shared_curves([run], "")
    assert [axis.title for axis in plot.x] == ["optimizer steps", "training tokens", "operations in training"]
    validation = next(trace for trace in plot.traces if trace.kind == "validation")
    assert validation.x == ((0.0, 2.0, 4.0), (0.0, 200.0, 400.0), (0.0, 4.0, 8.0))


def test_a_run_that_did_not_count_its_work_has_no_place_on_that_axis(tmp_path):
    run = run_of(tmp_path / "a", {0: {"train/loss": 1.0}})
    assert np.isnan(work_until(run, "work/total_tokens", np.array([0, 3]))).all()
    assert work_until(run, "", np.array([0, 3])).tolist() == [0, 3]


def test_of_many_steps_the_running_mean_is_drawn_and_of_few_runs_the_values_behind_it(tmp_path):
    run = run_of(tmp_path / "a", training(200))
    found = traces(shared_curves([run], ""), "margin")
    assert found["raw", ""].y == tuple(map(float, range(200)))
    assert found["training", ""].y[50] == pytest.approx(np.mean(range(41, 51)))
    others = [run_of(tmp_path / name, training(200)) for name in "bcd"]
    (plot,) = shared_curves([run, *others], "")
    assert {trace.kind for trace in plot.traces} == {"training"}


def test_a_long_training_is_drawn_by_some_of_its_points_with_both_ends(tmp_path):
    found = traces(shared_curves([run_of(tmp_path / "a", training(5000))], ""), "margin")
    steps = found["raw", ""].x[0]
    assert len(steps) == MOST_POINTS
    assert (steps[0], steps[-1]) == (0.0, 4999.0)
    assert max(np.diff(steps)) - min(np.diff(steps)) <= 1


def test_of_several_validation_sets_the_one_that_is_asked_for_is_drawn(tmp_path):
    run = run_of(tmp_path / "a", {4: {"val/helpful/pref/margins": 1.0, "val/harmless/pref/margins": 2.0}})
    assert traces(shared_curves([run], "harmless"), "margin")["validation", ""].y == (2.0,)
    assert shared_curves([run], "") == []


def test_what_depends_on_the_objective_stands_apart_from_what_does_not(tmp_path):
    names = ("log_odds_chosen", "delta", "grad_coef/chosen", "grad_coef/rejected", "rewards/margins", "loss")
    run = run_of(tmp_path / "a", {0: {f"train/{name}": 1.0 for name in (*names, "grad_norm", "nll_response")}})
    keys = [plot.key for plot in objective_curves([run], "")]
    assert keys == ["log_odds", "delta", "gradient_coefficients", "loss", "gradient_norm"]
    assert [plot.key for plot in shared_curves([run], "")] == ["nll_response"]


def test_rewards_are_drawn_of_runs_without_odds_which_say_the_same(tmp_path):
    odds = run_of(tmp_path / "a", {0: {"train/rewards/margins": 1.0, "train/log_odds_chosen": 1.0}})
    others = run_of(tmp_path / "b", {0: {"train/rewards/margins": 2.0}})
    assert "reward_margin" not in [plot.key for plot in objective_curves([odds], "")]
    (plot,) = (plot for plot in objective_curves([odds, others], "") if plot.key == "reward_margin")
    assert [trace.y for trace in plot.traces] == [(2.0,)]
