"""Quality beside cost: each run where its numbers put it, and the runs that no other one beats."""

from comparison_runs import config, make_run, pairs_of
from hypothesis import given, strategies as st

from orpo_lightning.comparison.comparison import Comparison
from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.report.cost import best_trade_offs, cost_plots
from orpo_lightning.summary.record import RunRecord


def make(folder, accuracy, nll, tflop=1.0, status="complete"):
    record = RunRecord(status, None, "ORPO", {"lambda_": 0.1}, "lambda_", "tiny", 100, 100, 4, 4)
    margins = [1.0] * round(10 * accuracy) + [-1.0] * round(10 - 10 * accuracy)
    metrics = {3: {"work/total_tflop": tflop, "time/total_s": 2.0, "memory/peak_gb": 0.5}, 4: {"val/nll_response": nll}}
    make_run(folder, record=record, configuration=config(folder=str(folder)), pairs=pairs_of(margins), metrics=metrics)


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
