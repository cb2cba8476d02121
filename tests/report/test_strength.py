"""Strength against quality: one line a model, repeats as their mean with an interval over seeds, by hand."""

import math
from dataclasses import replace

import pytest
import yaml
from comparison_runs import config, make_run, pairs_of

from orpo_lightning.comparison.comparison import Comparison
from orpo_lightning.comparison.estimates import estimate
from orpo_lightning.comparison.measures import MEASURES
from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.report.strength import strength_plots
from orpo_lightning.summary.intervals import bootstrap, student_interval
from orpo_lightning.summary.record import RunRecord


def make(
    folder, strength, margins, *, model="tiny", seed=0, status="complete", lr=None, objective="ORPO", nll=1.0, step=4
):
    name = {"ORPO": "lambda_", "DPO": "beta"}[objective]
    record = RunRecord(status, None, objective, {name: strength}, name, model, 100, 100, 4, 4)
    configuration = config(objective, seed, str(folder), **{name: strength})
    configuration["model"]["init_args"]["policy"]["name_or_path"] = model
    if lr is not None:
        configuration["model"]["init_args"]["optimizer"] = {"lr": lr}
    make_run(
        folder,
        record=record,
        configuration=configuration,
        pairs=pairs_of(margins, step=step, nll=nll),
    )


def plots_of(folder):
    runs = read_runs([str(folder)])
    comparison = Comparison.of_runs(runs)
    return {plot.key: plot for plot in strength_plots(runs, {row.run: row for row in comparison.rows})}


def test_seeds_are_one_point_with_students_interval_and_a_single_run_has_that_of_its_pairs(tmp_path):
    one, other = [1.0] * 8 + [-1.0] * 2, [1.0] * 6 + [-1.0] * 4  # of a share no end is below 0 or above 1
    make(tmp_path / "a", 0.1, one, seed=0)
    make(tmp_path / "b", 0.1, other, seed=1)
    make(tmp_path / "c", 1.0, one)
    plot = plots_of(tmp_path)["orpo_lambda_accuracy"]
    assert plot.reading.endswith("the bar of a single seed is that over the validation pairs.")
    (trace,) = plot.traces
    expected = student_interval([0.8, 0.6])
    alone = bootstrap([1.0] * 8 + [0.0] * 2)
    assert trace.x == ((0.1, 1.0),)
    assert trace.y == pytest.approx((expected.value, 0.8))
    assert expected.low < 0 < 1 < expected.high
    assert trace.low == pytest.approx((0.0, alone.low))
    assert trace.high == pytest.approx((1.0, alone.high))
    assert trace.runs == (("a", "b"), ("c",))
    assert trace.notes == (
        "mean of 2 seeds, Student's interval over them",
        "one seed, bootstrap interval over 10 pairs",
    )


def test_likelihood_and_margin_have_plots_of_their_own(tmp_path):
    make(tmp_path / "a", 0.1, [1.0, 3.0], nll=1.5)
    make(tmp_path / "b", 0.2, [2.0, 4.0], nll=2.5)
    found = plots_of(tmp_path)
    assert list(found) == ["orpo_lambda_accuracy", "orpo_lambda_margin", "orpo_lambda_nll_response"]
    assert found["orpo_lambda_margin"].traces[0].y == pytest.approx((2.0, 3.0))
    assert found["orpo_lambda_nll_response"].traces[0].y == (1.5, 2.5)
    assert all(map(math.isnan, found["orpo_lambda_nll_response"].traces[0].low))


def test_each_model_has_its_line_and_so_has_each_value_of_whatever_else_differs(tmp_path):
    for model in ("small", "large"):
        for strength in (1.0, 0.1):
            make(tmp_path / f"{model}-{strength}", strength, [1.0, -1.0], model=model)
    lines = plots_of(tmp_path)["orpo_lambda_accuracy"].traces
    assert {trace.label: trace.x for trace in lines} == {"large": ((0.1, 1.0),), "small": ((0.1, 1.0),)}
    make(tmp_path / "fast", 0.1, [1.0, -1.0], model="small", lr=0.5)
    labels = {trace.label: trace.x for trace in plots_of(tmp_path)["orpo_lambda_accuracy"].traces}
    assert labels["small, lr 0.5"] == ((0.1,),)


@pytest.mark.parametrize(("strengths", "is_log"), [((0.1, 0.5), True), ((0.1, 0.4), False), ((0.0, 1.0), False)])
def test_the_axis_is_logarithmic_where_the_strengths_span_much_and_none_is_0(tmp_path, strengths, is_log):
    for strength in strengths:
        make(tmp_path / str(strength), strength, [1.0, -1.0])
    assert plots_of(tmp_path)["orpo_lambda_accuracy"].x[0].is_log == is_log


def test_objectives_are_never_on_one_axis_of_strengths(tmp_path):
    for objective in ("ORPO", "DPO"):
        for strength in (0.1, 1.0):
            make(tmp_path / f"{objective}-{strength}", strength, [1.0, -1.0], objective=objective)
    found = plots_of(tmp_path)
    assert {"orpo_lambda_accuracy", "dpo_beta_accuracy"} <= found.keys()
    assert found["dpo_beta_accuracy"].traces[0].runs == (("DPO-0.1",), ("DPO-1.0",))


def test_one_strength_is_no_curve_and_what_failed_or_goes_on_is_no_point(tmp_path):
    make(tmp_path / "a", 0.1, [1.0])
    make(tmp_path / "b", 1.0, [1.0], status="failed")
    make(tmp_path / "c", 2.0, [1.0], status="running")
    assert plots_of(tmp_path) == {}
    make(tmp_path / "d", 3.0, [1.0], status="stopped")
    (trace,) = plots_of(tmp_path)["orpo_lambda_accuracy"].traces
    assert trace.runs == (("a",), ("d",))
    assert trace.notes[1].endswith("stopped early, validated at step 4")


def test_seeds_that_all_give_one_value_have_no_interval_of_no_width(tmp_path):
    make(tmp_path / "a", 0.1, [1.0])
    (row,) = Comparison.of_runs(read_runs([str(tmp_path)])).rows
    found = estimate([replace(row, accuracy=0.5), replace(row, accuracy=0.5)], MEASURES["accuracy"])
    assert found.interval.value == 0.5
    assert math.isnan(found.interval.low)
    assert estimate([replace(row, accuracy=None)], MEASURES["accuracy"]) is None


def search(folder, count, model="org/tiny"):
    """A random search over strength and learning rate."""
    for i in range(count):
        make(folder / f"{i:02}", 0.1 + i / 10, [1.0, -1.0, i / 10], model=model, lr=1e-4 * (i + 1))


def test_of_a_search_over_several_settings_there_are_points_and_no_lines_of_one_point(tmp_path):
    search(tmp_path, 6)
    plot = plots_of(tmp_path)["orpo_lambda_accuracy"]
    (trace,) = plot.traces
    assert (trace.kind, trace.label, len(trace.y)) == ("scatter", "tiny", 6)
    assert trace.notes[2].startswith("lr 0.0003; ")
    assert plot.reading.endswith("Other settings differ too.")
    assert plot.on_hovering == "Hovering tells which."


def test_models_are_called_by_the_ends_of_their_names_that_tell_them_apart(tmp_path):
    for i, model in enumerate(("one/tiny", "other/tiny")):
        for strength in (0.1, 1.0):
            make(tmp_path / f"{i}-{strength}", strength, [1.0, -1.0], model=model)
    assert [trace.label for trace in plots_of(tmp_path)["orpo_lambda_accuracy"].traces] == ["one/tiny", "other/tiny"]


def test_what_was_validated_before_its_first_step_alone_is_no_point(tmp_path):
    make(tmp_path / "a", 0.1, [1.0])
    make(tmp_path / "b", 1.0, [1.0], status="stopped", step=0)
    assert plots_of(tmp_path) == {}


def test_the_interval_of_a_single_run_that_is_always_right_is_called_what_it_is(tmp_path):
    make(tmp_path / "a", 0.1, [1.0] * 12)
    make(tmp_path / "b", 1.0, [1.0] * 11 + [-1.0])
    (trace,) = plots_of(tmp_path)["orpo_lambda_accuracy"].traces
    assert trace.low[0] == pytest.approx(0.025 ** (1 / 12))
    assert trace.notes == (
        "one seed, exact binomial interval over 12 pairs",
        "one seed, bootstrap interval over 12 pairs",
    )


def test_what_changes_no_step_tells_no_lines_apart_and_long_names_are_cut(tmp_path):
    for i, (strength, accelerator, data) in enumerate(((0.1, "cpu", "a"), (1.0, "auto", "a"), (0.1, "cpu", "b"))):
        folder = tmp_path / str(i)
        make(folder, strength, [1.0, 2.0])
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        settings["trainer"]["accelerator"] = accelerator
        settings["data"]["init_args"]["train"] = data + "/a long name of a folder" * 3
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    labels = [trace.label for trace in plots_of(tmp_path)["orpo_lambda_accuracy"].traces]
    assert len(labels) == 2
    assert all(len(label) <= 60 and label.endswith("…") and "accelerator" not in label for label in labels)


def test_a_run_that_was_stopped_before_any_validation_is_no_strength(tmp_path):
    make(tmp_path / "a", 0.2, [1.0, 2.0])
    make(tmp_path / "b", 2.5, [], status="stopped")
    assert plots_of(tmp_path) == {}
