"""Quality beside cost: each run where its numbers put it, and the runs that no other one beats."""

from comparison_runs import config, make_run, pairs_of
from hypothesis import given, strategies as st

from orpo_lightning.comparison.comparison import Comparison
from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.report.cost import best_trade_offs, cost_plots
from orpo_lightning.summary.record import RunRecord


def make(folder, accuracy, nll=2.0, tflop=1.0, status="complete", step=4):
    record = RunRecord(status, None, "ORPO", {"lambda_": 0.1}, "lambda_", "tiny", 100, 100, 4, 4)
    margins = [1.0] * round(10 * accuracy) + [-1.0] * round(10 - 10 * accuracy)
    metrics = {1: {"work/total_tflop": tflop / 2, "time/total_s": 1.0, "memory/peak_gb": 0.25}} | {
        3: {"work/total_tflop": tflop, "time/total_s": 2.0, "memory/peak_gb": 0.5}
    }
    make_run(
        folder,
        record=record,
        configuration=config(folder=str(folder)),
        pairs=pairs_of(margins, step, nll=nll),
        metrics=metrics,
    )


def plots_of(folder):
    runs = read_runs([str(folder)])
    return {plot.key: plot for plot in cost_plots(runs, {row.run: row for row in Comparison.of_runs(runs).rows})}


def test_each_run_is_a_point_at_its_cost_and_its_accuracy(tmp_path):
    make(tmp_path / "a", 0.6, 2.0, tflop=3.0)
    make(tmp_path / "b", 0.9, 2.5, tflop=7.0)
    found = plots_of(tmp_path)
    assert list(found) == [
        "accuracy_by_nll_response",
        "accuracy_by_tflop",
        "accuracy_by_seconds",
        "accuracy_by_peak_gb",
    ]
    points = {trace.group: (trace.x[0], trace.y) for trace in found["accuracy_by_tflop"].traces}
    assert points == {"a": ((3.0,), (0.6,)), "b": ((7.0,), (0.9,))}
    assert {trace.x for trace in found["accuracy_by_seconds"].traces} == {((2.0,),)}
    assert {trace.x for trace in found["accuracy_by_peak_gb"].traces} == {((0.5,),)}


def test_the_front_joins_the_runs_that_no_other_one_beats(tmp_path):
    make(tmp_path / "cheap", 0.6, 2.0)
    make(tmp_path / "beaten", 0.5, 2.2)
    make(tmp_path / "good", 0.9, 2.5)
    front, *points = plots_of(tmp_path)["accuracy_by_nll_response"].traces
    assert front.kind == "front"
    assert front.runs == (("cheap",), ("good",))
    assert (front.x, front.y) == (((2.0, 2.5),), (0.6, 0.9))
    assert {trace.group for trace in points} == {"cheap", "beaten", "good"}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_the_best_trade_offs_are_the_points_that_none_beats(points):
    def beats(one, other):
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    unbeaten = {point for point in points if not any(beats(other, point) for other in points)}
    best = [points[i] for i in best_trade_offs(points)]
    assert len(best) == len(set(best))
    assert set(best) == unbeaten
    assert best == sorted(best)


def test_a_single_run_has_nothing_to_stand_beside_and_a_failed_one_is_no_point(tmp_path):
    make(tmp_path / "a", 0.6, 2.0)
    make(tmp_path / "b", 0.6, 2.0, status="failed")
    assert plots_of(tmp_path) == {}


def test_what_was_stopped_stands_at_what_it_had_taken_when_it_was_validated(tmp_path):
    make(tmp_path / "a", 0.6, tflop=8.0)
    make(tmp_path / "b", 0.6, tflop=8.0, status="stopped", step=2)
    places = {
        key: [trace.x[0][0] for trace in plot.traces if trace.kind == "points"]
        for key, plot in plots_of(tmp_path).items()
    }
    assert places["accuracy_by_tflop"] == [8.0, 4.0]
    assert places["accuracy_by_seconds"] == [2.0, 1.0]
    assert places["accuracy_by_peak_gb"] == [0.5, 0.25]
    assert plots_of(tmp_path)["accuracy_by_tflop"].traces[1].notes == ("stopped early, validated at step 2",)


def test_the_untrained_model_is_no_point_of_a_run_that_was_not_validated_again(tmp_path):
    make(tmp_path / "a", 0.6)
    make(tmp_path / "b", 0.6, status="stopped", step=0)
    assert plots_of(tmp_path) == {}
