"""Accuracy by length and the spread of the margins, by hand."""

import math

import numpy as np
import pytest
from comparison_runs import make_run, pairs_of
from hypothesis import given, strategies as st

from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.report.pairs import bin_edges, length_buckets, pair_plots


def runs_of(tmp_path, **pairs):
    for name, each in pairs.items():
        make_run(tmp_path / name, pairs=each)
    return read_runs([str(tmp_path)])


def numbered(pairs):
    """The same pairs under row ids of their own."""
    return [type(pair)(**vars(pair) | {"row_id": f"a:{i}"}) for i, pair in enumerate(pairs)]


@given(st.lists(st.integers(1, 60), min_size=1), st.integers(1, 6))
def test_every_length_is_in_one_range_and_there_are_no_more_ranges_than_asked_for(lengths, most):
    buckets = length_buckets(lengths, most)
    assert 1 <= len(buckets) <= most
    assert all(sum(bucket.holds(length) for bucket in buckets) == 1 for length in lengths)


def test_the_ranges_hold_equally_many():
    buckets = length_buckets(range(1, 101), 4)
    assert [str(bucket) for bucket in buckets] == ["1 to 25", "26 to 50", "51 to 75", "76 to 100"]


def test_the_accuracy_of_each_range_is_that_of_its_pairs(tmp_path):
    short = pairs_of([1.0] * 9 + [-1.0], chosen_tokens=3)
    long = pairs_of([1.0] * 4 + [-1.0] * 5 + [0.0], chosen_tokens=8)
    plot, _ = pair_plots(runs_of(tmp_path, a=numbered([*short, *long])), "")
    (trace,) = plot.traces
    assert [tick.text for tick in plot.x[0].ticks] == ["3", "8"]
    assert trace.x == ((0.0, 1.0),)
    assert trace.y == pytest.approx((0.9, 0.45))  # a tie counts half
    assert trace.notes == ("3 tokens, 10 pairs", "8 tokens, 10 pairs")
    assert all(low < value < high for low, value, high in zip(trace.low, trace.y, trace.high, strict=True))


def test_a_range_in_which_all_are_right_has_the_exact_interval(tmp_path):
    plot, _ = pair_plots(runs_of(tmp_path, a=pairs_of([1.0] * 12)), "")
    assert plot.traces[0].low[0] == pytest.approx(0.025 ** (1 / 12))


def test_few_pairs_have_no_interval_and_runs_stand_beside_each_other(tmp_path):
    plot, _ = pair_plots(runs_of(tmp_path, a=pairs_of([1.0, -1.0]), b=pairs_of([1.0, 1.0])), "")
    first, second = plot.traces
    assert math.isnan(first.low[0])
    assert first.x[0][0] < 0 < second.x[0][0]
    assert (first.y, second.y) == ((0.5,), (1.0,))


def test_the_histogram_counts_every_pair_once_by_its_weight(tmp_path):
    margins, weight = [-1.0, 0.5, 0.5, 3.0], [1.0, 1.0, 2.0, 4.0]
    _, plot = pair_plots(runs_of(tmp_path, a=pairs_of(margins, weight=weight)), "")
    (trace,) = plot.traces
    edges = np.array(trace.x[0])
    shares = dict(zip(edges, trace.y, strict=True))
    assert sum(trace.y) == pytest.approx(1.0)
    assert any(edge == pytest.approx(0.0) for edge in edges)

    def share_at(margin):
        return shares[edges[edges <= margin + 1e-12].max() if margin < edges[-1] - 1e-12 else edges[-2]]

    assert share_at(-1.0) == pytest.approx(1 / 8)
    assert share_at(0.5) == pytest.approx(3 / 8)
    assert share_at(3.0) == pytest.approx(4 / 8)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_the_bins_hold_whatever_margins_there_are(margins):
    edges = bin_edges(margins, len(margins))
    assert np.histogram(margins, edges)[0].sum() == len(margins)


def test_the_only_run_is_shown_before_its_training_too(tmp_path):
    pairs = [*pairs_of([-1.0, 1.0], step=0), *pairs_of([1.0, 1.0], step=4)]
    _, plot = pair_plots(runs_of(tmp_path, a=pairs), "")
    assert [(trace.role, trace.label) for trace in plot.traces] == [
        ("before", "before training"),
        ("", "after training"),
    ]
    _, plot = pair_plots(runs_of(tmp_path, b=pairs), "")
    assert [trace.role for trace in plot.traces] == ["", ""]


def test_runs_without_pairs_are_left_out(tmp_path):
    assert pair_plots(runs_of(tmp_path, a=[]), "") == []
    plots = pair_plots(runs_of(tmp_path, b=pairs_of([1.0])), "")
    assert [plot.groups for plot in plots] == [("b",), ("b",)]
