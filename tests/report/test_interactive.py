"""What plotly is given is what it knows, and names are text to it."""

import json
import math

import plotly.graph_objects as go
import pytest
from report_runs import HOSTILE, make_report_runs

from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.report.contents import build_report
from orpo_lightning.report.interactive import figure_of
from orpo_lightning.report.plots import Axis, Plot, Tick, Trace


def figure(plot, runs=("a",), label="a"):
    return figure_of(plot, runs, dict.fromkeys(runs, label))


def plot_of(*traces, x=None):
    return Plot("key", "title", "reading", (x or Axis("steps"),), Axis("margin", "nats/token"), traces)


def test_plotly_accepts_every_plot_of_a_report(tmp_path):
    runs = read_runs([str(make_report_runs(tmp_path))])
    names = [run.name for run in runs]
    report = build_report(runs)
    assert [section.key for section in report.sections] == ["curves", "objective", "pairs", "strength", "cost"]
    for plot in report.plots:
        drawn = figure_of(plot, names, dict.fromkeys(names, "a run"))
        go.Figure({"data": drawn["data"], "layout": drawn["layout"]})  # refuses what plotly does not know
        json.dumps(drawn, allow_nan=False)


def test_what_is_no_number_is_no_point():
    trace = Trace("label", "validation", "a", (("a",),), ((0.0, math.nan),), (math.inf, 1.0))
    (drawn,) = figure(plot_of(trace))["data"]
    assert (drawn["x"], drawn["y"]) == ([0.0, None], [None, 1.0])


def test_an_interval_is_given_as_what_is_above_and_below_the_value():
    trace = Trace("label", "points", "a", (("a",),), ((0.0,),), (0.5,), (0.25,), (1.0,))
    (drawn,) = figure(plot_of(trace))["data"]
    assert drawn["error_y"]["array"] == [0.5]
    assert drawn["error_y"]["arrayminus"] == [0.25]
    assert "95%: 0.25 to 1" in drawn["text"]


def test_hovering_tells_who_and_what_and_names_are_no_markup():
    trace = Trace(f"{HOSTILE} validation", "validation", "a", (("a",),), ((0.0,),), (0.5,))
    (drawn,) = figure(plot_of(trace), label=HOSTILE)["data"]
    assert "<script" not in json.dumps(drawn)
    assert "&lt;script" in drawn["text"]
    assert "margin: %{y:.4~g} nats/token" in drawn["hovertemplate"]


def test_each_point_knows_its_runs_and_every_x_axis_its_places():
    trace = Trace("tiny", "line", "tiny", (("a", "b"), ("c",)), ((0.1, 1.0),), (0.5, 0.75), notes=("two", "one"))
    (drawn,) = figure(plot_of(trace), runs=("a", "b", "c"))["data"]
    assert drawn["meta"] == {"kind": "line", "runs": [[0, 1], [2]], "x": [[0.1, 1.0]]}


@pytest.mark.parametrize(
    ("axis", "kind", "values"),
    [
        (Axis("lambda", is_log=True), "log", [0.1, 0.2, 0.5, 1.0]),
        (Axis("tokens", ticks=(Tick(0.0, "1 to 3"),)), "linear", [0.0]),
    ],
)
def test_an_axis_is_labelled_where_it_says(axis, kind, values):
    trace = Trace("tiny", "line", "a", (("a",),), ((0.1, 1.0),), (0.5, 0.75))
    drawn = figure(plot_of(trace, x=axis))["layout"]["xaxis"]
    assert (drawn["type"], drawn["tickvals"]) == (kind, values)


def test_the_legend_of_many_models_leaves_most_of_the_height_to_the_plot():
    traces = [Trace(f"model-{i}", "line", f"model-{i}", (("a",),), ((0.1,),), (0.5,)) for i in range(30)]
    drawn = figure(plot_of(*traces))
    assert drawn["layout"]["legend"]["maxheight"] <= 0.25
    go.Figure({"data": drawn["data"], "layout": drawn["layout"]})
