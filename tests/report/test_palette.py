"""Runs are told apart, in all plots by the same colour."""

from orpo_lightning.report.palette import style_of, styles_of
from orpo_lightning.report.plots import Axis, Plot, Trace


def plot_of(*traces):
    return Plot("key", "title", "reading", (Axis("x"),), Axis("y"), traces)


def trace(group, role="", kind="training"):
    return Trace("label", kind, group, ((group,),), ((0.0,),), (0.0,), role=role)


def test_thirty_runs_are_told_apart_by_colour_and_mark():
    assert len(set(styles_of([f"run-{i}" for i in range(30)]).values())) == 30


def test_a_run_keeps_its_colour_where_another_one_has_no_line():
    runs = ["a", "b", "c"]
    assert style_of(trace("c"), plot_of(trace("c")), runs) == style_of(trace("c"), plot_of(*map(trace, runs)), runs)


def test_of_a_single_run_the_colour_tells_chosen_from_rejected():
    alone = plot_of(trace("a", "chosen"), trace("a", "rejected"))
    assert len({style_of(each, alone, ["a"]) for each in alone.traces}) == 2
    several = plot_of(*alone.traces, trace("b", "chosen"))
    assert len({style_of(each, several, ["a", "b"]) for each in several.traces[:2]}) == 1


def test_models_have_colours_of_their_own():
    plot = plot_of(trace("small", kind="line"), trace("large", kind="line"))
    assert len({style_of(each, plot, ["a", "b"]) for each in plot.traces}) == 2
