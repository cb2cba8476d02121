"""Rows, paired tests and repeats, on numbers that are worked out by hand."""

import csv
import json
import math

import numpy as np
import pytest
from comparison_runs import answer, config, make_run, pairs_of
from hypothesis import given, strategies as st
from rich.console import Console

from orpo_lightning.comparison.comparison import Comparison
from orpo_lightning.comparison.files import write_csv, write_json
from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.comparison.significance import paired_tests, sign_flip_p
from orpo_lightning.comparison.table import Row
from orpo_lightning.comparison.terminal import print_comparison
from orpo_lightning.summary.intervals import student_interval
from orpo_lightning.summary.record import RunRecord

MARGINS = [1.0, -1.0] * 5 + [0.0] * 2


@pytest.fixture
def compared(tmp_path):
    """Compares runs that are given as keyword arguments of make_run by name."""

    def run(options_of, **options):
        for name, each in options_of.items():
            make_run(tmp_path / name, **each)
        return Comparison.of_runs(read_runs([str(tmp_path / name) for name in options_of]), **options)

    return run


# rows


def test_a_row_tells_the_cost_and_the_quality_of_a_run(compared):
    metrics = {
        0: {"work/total_pairs": 8.0, "work/total_tokens": 100.0, "work/total_tflop": 0.5, "time/total_s": 2.0},
        1: {"work/total_pairs": 16.0, "work/total_tokens": 190.0, "work/total_tflop": 0.9, "time/total_s": 4.5},
        4: {"val/nll_response": 2.5, "memory/peak_gb": 1.25},
        5: {"memory/peak_gb": 1.0},
    }
    answers = [answer(0, 90), answer(4, 10), answer(4, 20, finished=False, row_id="a:2")]
    (row,) = compared({"a": {"pairs": pairs_of(MARGINS), "metrics": metrics, "answers": answers}}).rows
    assert (row.objective, row.strength_name, row.strength, row.model) == ("ORPO", "lambda_", 0.1, "tiny")
    assert (row.pairs_seen, row.tokens_seen, row.tflop, row.seconds, row.peak_gb) == (16, 190, 0.9, 4.5, 1.25)
    # 5 of 12 right, 5 wrong, 2 ties
    assert (row.validation_pairs, row.accuracy.value) == (12, 0.5)
    assert row.margin.value == pytest.approx(0)
    assert row.accuracy.low < 0.5 < row.accuracy.high
    assert row.nll_response == 2.5
    assert (row.answer_tokens, row.answers, row.answers_cut) == (15, 2, 1)


def test_weights_count(compared):
    pairs = pairs_of([1.0] * 10 + [-1.0] * 2, weight=[1.0] * 10 + [5.0] * 2)
    assert compared({"a": {"pairs": pairs}}).rows[0].accuracy.value == pytest.approx(0.5)


def test_few_pairs_have_no_interval_and_what_was_not_measured_is_not_there(compared):
    rows = compared({"a": {"pairs": pairs_of([1.0] * 9)}, "b": {}}).rows
    assert (rows[0].accuracy, rows[0].margin) == (1.0, 1.0)
    assert rows[1].accuracy is rows[1].margin is rows[1].nll_response is rows[1].tflop is rows[1].answer_tokens is None


def test_a_named_set_has_its_own_row(compared):
    pairs = [*pairs_of([1.0] * 9, set="first"), *pairs_of([-1.0] * 9, set="second")]
    runs = {"a": {"pairs": pairs, "metrics": {4: {"val/first/nll_response": 1.0, "val/second/nll_response": 2.0}}}}
    first, second = compared(runs), compared(runs, of_set="second")
    assert (first.rows[0].accuracy, first.rows[0].nll_response) == (1.0, 1.0)
    assert (second.rows[0].accuracy, second.rows[0].nll_response) == (0.0, 2.0)
    assert first.notes == ["Of the validation sets this is first; the others: second."]
    with pytest.raises(ValueError, match=r"--set third: no run has .* accepted: one of first, second"):
        compared(runs, of_set="third")


# tests


@pytest.mark.parametrize("pairs", [1, 2, 5, 10])
def test_if_every_pair_gains_the_p_value_is_that_of_equal_signs(pairs):
    assert sign_flip_p(np.full(pairs, 0.3), np.ones(pairs)) == pytest.approx(2 / 2**pairs)


def test_the_p_value_of_an_accuracy_is_that_of_the_exact_sign_test_of_its_discordant_pairs():
    # 7 gained, 1 lost, 4 the same: binomial tail of 8 tosses, both sides
    difference = np.array([1.0] * 7 + [-1.0] + [0.0] * 4)
    tail = sum(math.comb(8, k) for k in (7, 8)) / 2**8
    assert sign_flip_p(difference, np.ones(12)) == pytest.approx(2 * tail)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8))
def test_a_p_value_is_the_same_for_the_opposite_difference_and_at_most_1(values):
    difference = np.round(np.array(values), 2)
    p = sign_flip_p(difference, np.ones(len(values)))
    assert 0 < p <= 1
    assert sign_flip_p(-difference, np.ones(len(values))) == pytest.approx(p)


def test_a_pair_without_weight_does_not_count_in_a_test():
    weighted = sign_flip_p(np.array([1.0, 1.0, 1.0, -50.0]), np.array([1.0, 1.0, 1.0, 0.0]))
    assert weighted == pytest.approx(2 / 2**3)


def test_many_pairs_are_resampled_and_chance_alone_gives_small_values_as_rarely_as_it_should():
    generator = np.random.default_rng(1)
    found = np.array([sign_flip_p(generator.normal(size=40), np.ones(40)) for _ in range(100)])
    assert 0.01 <= (found < 0.1).mean() <= 0.22  # 10 of 100, give or take three standard errors
    assert sign_flip_p(generator.normal(loc=2, size=40), np.ones(40)) < 0.001


def test_runs_are_tested_on_the_pairs_that_both_have(compared):
    better = [each + 0.5 for each in MARGINS]
    found = compared({"a": {"pairs": pairs_of(MARGINS)}, "b": {"pairs": pairs_of(better[:10])}}).tests
    assert [(each.run, each.baseline, each.measure, each.pairs) for each in found] == [
        ("b", "a", "accuracy", 10),
        ("b", "a", "margin", 10),
    ]
    assert found[1].difference.value == pytest.approx(0.5)
    assert found[1].difference.low == pytest.approx(0.5)  # every pair gains the same
    assert found[1].p == pytest.approx(2 / 2**10)
    assert found[0].difference.value == 0


def test_a_pair_with_other_tokens_is_another_pair(compared):
    pairs = {"a": {"pairs": pairs_of(MARGINS)}, "b": {"pairs": pairs_of(MARGINS, chosen_tokens=4)}}
    found = compared(pairs)
    assert found.tests == []
    assert any("not validated on the same pairs" in note for note in found.notes)


def test_p_values_are_adjusted_for_the_number_of_runs(tmp_path):
    gains = {"a": 0.0, "b": 0.5, "c": 0.5, "d": 0.0}
    for name, gain in gains.items():
        make_run(tmp_path / name, pairs=pairs_of([each + gain for each in MARGINS[:8]]))
    runs = read_runs([str(tmp_path)])
    found = {each.run: each.p for each in paired_tests(runs, runs[0], "") if each.measure == "margin"}
    alone = 2 / 2**8
    # Holm: the two smallest of three times 3 and 2, the second not below the first; a difference of 0 is no evidence
    assert found == {"b": pytest.approx(3 * alone), "c": pytest.approx(3 * alone), "d": 1.0}


def test_another_baseline_can_be_named(compared):
    runs = {"a": {"pairs": pairs_of(MARGINS)}, "b": {"pairs": pairs_of(MARGINS)}}
    assert {each.baseline for each in compared(runs, baseline="b").tests} == {"b"}
    with pytest.raises(ValueError, match="--baseline c: no run is named so; accepted: a, b"):
        compared(runs, baseline="c")


# repeats


def test_repeats_with_other_seeds_get_students_interval(compared):
    margins = {"a": 0.1, "b": 0.2, "c": 0.3}
    runs = {
        name: {"pairs": pairs_of([each] * 10), "configuration": config(seed=i)}
        for i, (name, each) in enumerate(margins.items())
    }
    (found,) = compared(runs).repeats
    assert found.runs == ("a", "b", "c")
    margin = found.means["margin"]
    # the mean of three with the standard deviation 0.1: 4.303 standard errors to each side
    assert margin.value == pytest.approx(0.2)
    assert margin.high - margin.value == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-5)
    assert set(found.means) == {"accuracy", "margin"}


def test_a_run_that_failed_is_no_repeat(compared):
    failed = RunRecord("failed", "the loss is nan", "ORPO", {"lambda_": 0.1}, "lambda_", "tiny")
    runs = {
        "a": {"pairs": pairs_of(MARGINS)},
        "b": {"pairs": pairs_of(MARGINS), "configuration": config(seed=1), "record": failed},
    }
    found = compared(runs)
    assert found.repeats == []
    assert "b failed after 0 steps: the loss is nan" in found.notes


def test_an_interval_over_one_repeat_is_refused():
    with pytest.raises(ValueError, match="needs at least two of them, not 1"):
        student_interval([0.5])


# what is printed and written


def test_everything_is_printed_in_80_columns(compared):
    runs = {
        name: {
            "pairs": pairs_of([each + gain for each in MARGINS]),
            "configuration": config(lambda_=gain, seed=seed),
            "metrics": {4: {"val/nll_response": 2.0, "work/total_pairs": 8.0 + seed}},
        }
        for name, gain, seed in (("a", 0.0, 0), ("b", 0.5, 0), ("c", 0.5, 1), ("d", 1.0, 0))
    }
    console = Console(width=80, record=True, color_system=None)
    print_comparison(compared(runs), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        *("Quality on the validation pairs, tiny", "Cost of the training", "Mean over seeds"),
        *("Difference from a on the same pairs", "Settings that differ", "model.objective.lambda_"),
        *("not seen equally many pairs", "Student's", "Holm", "95% intervals"),
    ):
        assert part in text, part


def test_control_characters_of_a_run_are_not_obeyed(compared):
    record = RunRecord("failed", "bad \x1b[31m red", "ORPO", {"lambda_": 0.1}, "lambda_", "ti\x1b[1mny")
    console = Console(width=80, record=True, color_system=None)
    print_comparison(compared({"a": {"record": record}}), console)
    assert "\x1b" not in console.export_text()


def test_the_csv_has_a_row_of_each_run_and_the_json_all_of_it(compared, tmp_path):
    runs = {"a": {"pairs": pairs_of(MARGINS)}, "b": {"pairs": pairs_of([0.5] * 12), "configuration": config(seed=1)}}
    found = compared(runs)
    write_csv(found, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["a", "b"]
    assert float(rows[0]["accuracy_low"]) == found.rows[0].accuracy.low
    assert rows[0]["tflop"] == ""
    write_json(found, tmp_path / "all.json")
    read = json.loads((tmp_path / "all.json").read_text())
    assert read["rows"][1]["margin"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert read["differences"] == {"seed_everything": [0, 1]}
    assert {each["measure"] for each in read["tests"]} == {"accuracy", "margin"}
    assert set(read["rows"][0]) == set(Row.__dataclass_fields__)
