"""Rows, paired tests and repeats, on numbers that are worked out by hand."""

import csv
import json
import math
import re
from dataclasses import replace

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
from orpo_lightning.summary.intervals import Interval, student_interval
from orpo_lightning.summary.record import Finding, RunRecord

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
        5: {"val/nll_response": 2.5, "memory/peak_gb": 1.0},
        4: {"val/nll_response": 2.5, "memory/peak_gb": 1.25},
    }
    answers = [answer(0, 90), answer(4, 10), answer(4, 20, finished=False, row_id="a:2")]
    (row,) = compared({"a": {"pairs": pairs_of(MARGINS), "metrics": metrics, "answers": answers}}).rows
    assert (row.objective, row.strength_name, row.strength, row.model) == ("ORPO", "lambda_", 0.1, "tiny")
    assert (row.pairs_seen, row.tokens_seen, row.tflop, row.seconds, row.peak_gb) == (16, 190, 0.9, 4.5, 1.25)
    # 5 of 12 right, 5 wrong, 2 ties
    assert (row.validation_pairs, row.accuracy.value) == (12, 0.5)
    assert row.margin.value == pytest.approx(0)
    assert row.accuracy.low < 0.5 < row.accuracy.high
    assert row.nll_response.value == 2.0  # not the logged one, which may be of another step
    assert row.validated_at == 4
    assert (row.answer_tokens, row.answers, row.answers_cut) == (15, 2, 1)


def test_the_wall_time_is_that_of_a_run_that_has_ended(compared):
    records = {name: replace(of(status), wall_seconds=9.0) for name, status in (("a", "stopped"), ("b", "running"))}
    runs = {name: {"record": record} for name, record in records.items()}
    assert [row.wall_seconds for row in compared(runs).rows] == [9.0, None]  # else as it was when the run began


def test_weights_count(compared):
    pairs = pairs_of([1.0] * 10 + [-1.0] * 2, weight=[1.0] * 10 + [5.0] * 2)
    assert compared({"a": {"pairs": pairs}}).rows[0].accuracy.value == pytest.approx(0.5)


def test_few_pairs_have_no_interval_and_what_was_not_measured_is_not_there(compared):
    rows = compared({"a": {"pairs": pairs_of([1.0] * 9)}, "b": {}}).rows
    assert (rows[0].accuracy, rows[0].margin) == (1.0, 1.0)
    assert rows[1].accuracy is rows[1].margin is rows[1].nll_response is rows[1].tflop is rows[1].answer_tokens is None


def test_a_named_set_has_its_own_row(compared):
    pairs = [*pairs_of([1.0] * 9, set="first"), *pairs_of([-1.0] * 9, set="second", chosen_tokens=1)]
    runs = {"a": {"pairs": pairs}}
    first, second = compared(runs), compared(runs, of_set="second")
    assert (first.rows[0].accuracy, first.rows[0].nll_response) == (1.0, 2.0)
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


@pytest.mark.slow
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
        ("b", "a", "nll_response", 10),
    ]
    assert found[1].difference.value == pytest.approx(0.5)
    assert found[1].difference.low == pytest.approx(0.5)  # every pair gains the same
    assert found[1].p == pytest.approx(2 / 2**10)
    assert found[0].difference.value == 0


def test_a_pair_with_other_tokens_is_another_pair(compared):
    pairs = {"a": {"pairs": pairs_of(MARGINS)}, "b": {"pairs": pairs_of(MARGINS, chosen_tokens=4)}}
    found = compared(pairs)
    assert found.tests == []
    assert found.notes[0] == "b: no validation pair in common with a, so it is in no test."


def test_p_values_are_adjusted_for_the_number_of_runs(tmp_path):
    gains = {"a": 0.0, "b": 0.5, "c": 0.5, "d": 0.0}
    for name, gain in gains.items():
        make_run(tmp_path / name, pairs=pairs_of([each + gain for each in MARGINS[:8]]))
    runs = read_runs([str(tmp_path)])
    found = {each.run: each.p for each in paired_tests(runs, runs[0], "").tests if each.measure == "margin"}
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
    assert set(found.means) == {"accuracy", "margin", "nll_response"}


def test_a_run_that_failed_is_no_repeat(compared):
    failed = RunRecord("failed", "the loss is nan", "ORPO", {"lambda_": 0.1}, "lambda_", "tiny")
    runs = {
        "a": {"pairs": pairs_of(MARGINS)},
        "b": {"pairs": pairs_of(MARGINS), "configuration": config(seed=1), "record": failed},
    }
    found = compared(runs)
    assert found.repeats == []
    assert "b failed after 0 steps: the loss is nan" in found.notes


def test_what_runs_have_found_to_be_wrong_with_themselves_is_told_once(compared):
    both, one = Finding(0, "the data is shared"), Finding(8, "the likelihood falls")
    found = compared(
        {"a": {"record": replace(of(), health=(both,))}, "b": {"record": replace(of(), health=(both, one))}, "c": {}}
    )
    assert [note for note in found.notes if "the data" in note or "falls" in note] == [
        "a, b: the data is shared.",
        "b: the likelihood falls.",
    ]


def test_an_interval_over_one_repeat_is_refused():
    with pytest.raises(ValueError, match="needs at least two of them, not 1"):
        student_interval([0.5])


def of(status="complete", steps=4, reason=None):
    return RunRecord(status, reason, "ORPO", {"lambda_": 0.1}, "lambda_", "tiny", 100, 100, steps, 41)


def test_what_was_last_validated_before_its_training_is_in_no_test_and_not_the_baseline(compared):
    runs = {
        "a": {"pairs": pairs_of(MARGINS, step=0), "record": of("stopped", 41)},
        "b": {"pairs": pairs_of(MARGINS), "configuration": config(seed=1)},
        "c": {"pairs": pairs_of(MARGINS), "configuration": config(seed=2)},
    }
    found = compared(runs)
    assert [row.validated_at for row in found.rows] == [0, 4, 4]
    assert {(each.run, each.baseline) for each in found.tests} == {("c", "b")}
    assert [each.runs for each in found.repeats] == [("b", "c")]
    assert "a: last validated at step 0 of 41, so it is in no test, mean or plot of quality." in found.notes
    named = compared(runs, baseline="a")
    assert named.tests == ()
    assert "Nothing is tested against the baseline a: last validated at step 0 of 41." in named.notes


@pytest.mark.parametrize("status", ["failed", "running"])
def test_what_failed_or_goes_on_is_in_no_test(compared, status):
    runs = {"a": {"pairs": pairs_of(MARGINS), "record": of(status)}, "b": {"pairs": pairs_of(MARGINS)}}
    found = compared(runs)
    assert list(found.tests) == []
    assert any(note.startswith("a: ") and note.endswith("in no test, mean or plot of quality.") for note in found.notes)


def test_what_was_stopped_and_validated_after_a_step_is_tested(compared):
    runs = {"a": {"pairs": pairs_of(MARGINS)}, "b": {"pairs": pairs_of(MARGINS, step=3), "record": of("stopped")}}
    assert {each.run for each in compared(runs).tests} == {"b"}


def test_the_untrained_model_of_a_run_of_no_steps_is_what_it_comes_to(compared):
    assert compared({"a": {"pairs": pairs_of(MARGINS, step=0), "record": of(steps=0)}}).rows[0].why_not_compared is None


def test_a_copy_of_a_seed_and_changed_data_are_no_repeats(compared):
    runs = {
        "a": {"pairs": pairs_of(MARGINS)},
        "b": {"pairs": pairs_of(MARGINS)},
        "c": {"pairs": pairs_of([1.0] * 12), "configuration": config(seed=1)},
        "d": {"pairs": pairs_of(MARGINS), "configuration": config(seed=2), "report": {"train": {"read": 9}}},
    }
    found = compared(runs)
    assert [each.runs for each in found.repeats] == [("a", "c")]
    assert "b: with a seed that a, c had before, so not counted again as another seed." in found.notes
    assert any(note.startswith("a, b, c, d: equal settings, but not equal data") for note in found.notes)


def test_an_interval_over_seeds_stays_in_the_range_of_its_measure_and_equal_values_have_none(compared):
    runs = {
        name: {"pairs": pairs_of(margins, nll=1.5), "configuration": config(seed=i)}
        for i, (name, margins) in enumerate({"a": [1.0] * 12, "b": [-1.0] * 12}.items())
    }
    (found,) = compared(runs).repeats
    assert found.means["accuracy"] == Interval(0.5, 0.0, 1.0)
    assert found.means["nll_response"].value == 1.5
    assert math.isnan(found.means["nll_response"].low)
    console = Console(width=120, record=True, color_system=None)
    print_comparison(compared(runs), console)
    assert "a, b  2      50.0 (0.0 to 100.0)" in console.export_text()


def test_where_all_pairs_are_right_the_interval_is_not_one_point(compared):
    found = compared({"a": {"pairs": pairs_of([1.0] * 12)}, "b": {"pairs": pairs_of([2.0] * 12)}})
    assert found.rows[0].accuracy.low == pytest.approx(0.025 ** (1 / 12))
    accuracy = found.tests[0]
    assert (accuracy.difference.value, accuracy.p) == (0.0, 1.0)
    assert accuracy.difference.high == pytest.approx(1 - 0.025 ** (1 / 12)) == -accuracy.difference.low


def test_nll_is_a_ratio_of_sums_and_tested_as_one(compared):
    short, long = pairs_of([0.0] * 6, nll=1.0), pairs_of([0.0] * 6, nll=3.0, chosen_tokens=9, weight=[2.0] * 6)
    pairs = [replace(pair, row_id=f"a:{i}") for i, pair in enumerate([*short, *long])]
    worse = [replace(pair, chosen=pair.chosen - 0.5 * pair.chosen_tokens) for pair in pairs]
    found = compared({"a": {"pairs": pairs}, "b": {"pairs": worse}})
    expected = (6 * 3 * 1.0 + 2 * 6 * 9 * 3.0) / (6 * 3 + 2 * 6 * 9)
    assert found.rows[0].nll_response.value == pytest.approx(expected)
    assert 1.0 < found.rows[0].nll_response.low < expected < found.rows[0].nll_response.high < 3.0
    (test,) = (each for each in found.tests if each.measure == "nll_response")
    assert test.difference.value == pytest.approx(0.5)
    assert test.p_unadjusted == pytest.approx(2 / 2**12)


def named(pairs, place, contents=True):
    return [
        replace(pair, row_id=f"{place}:{i}", content=f"{i:016x}" if contents else "") for i, pair in enumerate(pairs)
    ]


def test_the_same_pairs_are_found_again_under_another_path(compared):
    runs = {"a": {"pairs": named(pairs_of(MARGINS), "w.jsonl")}, "b": {"pairs": named(pairs_of(MARGINS), "./w.jsonl")}}
    assert {each.pairs for each in compared(runs).tests} == {12}
    runs["b"]["pairs"] = named(pairs_of(MARGINS), "w.jsonl", contents=False)
    assert {each.pairs for each in compared(runs).tests} == {12}  # as it was before contents were noted


def test_a_pair_of_other_content_is_another_one_though_its_place_and_lengths_are_the_same(compared):
    other = [replace(pair, content=f"f{pair.content[1:]}") for pair in named(pairs_of(MARGINS), "w.jsonl")]
    runs = {"a": {"pairs": named(pairs_of(MARGINS), "w.jsonl")}, "b": {"pairs": [*other[:4]]}}
    assert compared(runs).tests == []
    runs["b"]["pairs"] = [*other[:4], *named(pairs_of(MARGINS), "w.jsonl")[4:]]
    found = compared(runs)
    assert {each.pairs for each in found.tests} == {8}
    assert (
        "The runs were not validated on the same pairs; the tests take those that both of two runs have." in found.notes
    )


def test_a_run_without_pairs_is_said_to_be_in_no_test(compared):
    found = compared({"a": {"pairs": pairs_of(MARGINS)}, "b": {}, "c": {}})
    assert "b, c: no validation pairs, so they are in no test." in found.notes


def test_values_that_are_no_numbers_are_not_tested_and_null_in_the_files(compared, tmp_path):
    broken = [replace(pair, rejected_mean=math.nan) for pair in pairs_of(MARGINS)]
    found = compared({"a": {"pairs": pairs_of(MARGINS)}, "b": {"pairs": broken}})
    assert found.tests == []
    assert "b: its values, or those of a, are not all numbers, so it is in no test." in found.notes
    write_json(found, tmp_path / "all.json")
    assert "NaN" not in (tmp_path / "all.json").read_text()
    assert json.loads((tmp_path / "all.json").read_text())["rows"][1]["margin"]["value"] is None
    write_csv(found, tmp_path / "rows.csv")
    assert "nan" not in (tmp_path / "rows.csv").read_text()


def test_unequal_work_of_any_kind_and_ending_is_said(compared):
    work = {"work/total_pairs": 100.0, "work/total_tokens": 1000.0, "work/total_tflop": 2.0}
    runs = {
        "a": {"metrics": {3: work}},
        "b": {"metrics": {3: work | {"work/total_tokens": 1005.0, "work/total_tflop": 3.0}}, "record": of("failed")},
    }
    (note,) = (note for note in compared(runs).notes if "equally much" in note)
    assert note.startswith("The runs have not done equally much: b 1.5 times the operations of a. ")


def test_a_baseline_can_be_named_by_its_folder_however_that_is_typed(compared, tmp_path, monkeypatch):
    runs = {"a": {"pairs": pairs_of(MARGINS)}, "b": {"pairs": pairs_of(MARGINS)}}
    monkeypatch.chdir(tmp_path)
    for name in ("b/", "./b", str(tmp_path / "b"), "../" + tmp_path.name + "/b"):
        assert {each.baseline for each in compared(runs, baseline=name).tests} == {"b"}
    found = compared({**runs, "c": {}}, baseline="c")
    assert "Nothing is tested against the baseline c: no validation pairs." in found.notes


# what is printed and written


@pytest.mark.parametrize("width", [40, 60, 70, 80])
def test_no_number_is_broken_in_a_narrow_terminal(compared, width):
    runs = {
        f"orpo-lambda-{gain}-a-long-name": {
            "pairs": pairs_of([each + gain for each in MARGINS]),
            "configuration": config(lambda_=gain),
            "metrics": {3: {"work/total_tokens": 123456789.0, "work/total_tflop": 1234.5, "memory/peak_gb": 12.5}},
        }
        for gain in (0.0, 0.5)
    }
    console = Console(width=width, record=True, color_system=None)
    print_comparison(compared(runs), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for whole in ("123,456,789", "1,234", "0.000", "0.500", "12.50", "model.", "objective.", "lambda_", "accuracy"):
        assert re.search(rf"(?<![\d]){re.escape(whole)}", text), whole
    assert re.search(r"^(model\.objective\.)?lambda_ ", text, re.M)


def test_the_only_set_without_a_name_is_called_so_beside_named_ones(compared):
    runs = {
        "a": {"pairs": pairs_of(MARGINS)},
        "b": {"pairs": [*pairs_of(MARGINS, set="first"), *pairs_of(MARGINS, set="second")], "answers": [answer()]},
    }
    said = "Of the validation sets this is the one without a name; the others: first, second."
    assert said in compared(runs).notes
    second = compared(runs, of_set="second").notes
    assert "Of the validation sets this is second; the others: the one without a name, first." in second
    assert any(note.startswith("The answers are to prompts of the first validation set") for note in second)


def test_without_validation_nothing_of_it_is_explained(compared):
    console = Console(width=80, record=True, color_system=None)
    print_comparison(compared({"a": {}}), console)
    assert "accuracy" not in console.export_text()
    assert "resamples" not in console.export_text()


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
        *("not done equally much: c 1.12 times the pairs", "Student's", "Holm", "95% intervals"),
    ):
        assert part in text, part


def test_means_and_differences_say_what_their_runs_trained(compared):
    runs = {
        name: {
            "pairs": pairs_of([each + strength for each in MARGINS]),
            "configuration": config(lambda_=strength, seed=seed),
            "record": replace(of(), arguments={"lambda_": strength}),
        }
        for name, strength, seed in (("a", 0.1, 0), ("b", 0.1, 1), ("c", 0.5, 0), ("d", 0.5, 1))
    }
    console = Console(width=120, record=True, color_system=None)
    print_comparison(compared(runs), console)
    text = console.export_text()
    assert "Difference from a (lambda 0.1) on the same pairs" in text
    assert re.search(r"^a, b +lambda 0.1 +2 ", text, re.M)
    assert re.search(r"^c, d +lambda 0.5 +2 ", text, re.M)
    assert re.search(r"^d +lambda 0.5 +margin +\+0.400", text, re.M)
    runs["d"]["record"] = replace(runs["d"]["record"], model="other")
    console = Console(width=120, record=True, color_system=None)
    print_comparison(compared(runs), console)
    assert "Difference from a (lambda 0.1 tiny) on the same pairs" in console.export_text()
    del runs["c"], runs["d"]
    console = Console(width=120, record=True, color_system=None)
    print_comparison(compared(runs), console)
    assert "Difference from a on the same pairs" in console.export_text()  # where all are alike there is nothing to say


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
    assert {each["measure"] for each in read["tests"]} == {"accuracy", "margin", "nll_response"}
    assert set(read["rows"][0]) == set(Row.__dataclass_fields__)
