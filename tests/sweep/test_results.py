"""What a sweep shows and keeps: a row for each trial, the best one marked, repeats with their interval."""

import csv
import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from orpo_lightning.sweep.command import Command
from orpo_lightning.sweep.distributions import Choice
from orpo_lightning.sweep.file import Metric, Sweep
from orpo_lightning.sweep.record import Progress, Trial, read_progress, reason_of_failure
from orpo_lightning.sweep.results import best_trial, mean_of, repeats_of, write_results
from orpo_lightning.sweep.table import Row, View, repeats_table, trials_table

LAMBDA = "model.objective.lambda_"
TRACEBACK = "Traceback (most recent call last):\n"
SWEEP = Sweep(
    "strength",
    "grid",
    {LAMBDA: Choice((0.1, 1.0)), "seed_everything": Choice((0, 1)), "config": Choice(("orpo",))},
    Command(("fit", "${args}")),
    Metric("val/pref/accuracies", "maximize"),
)
TRIALS = [
    Trial(i, {LAMBDA: (0.1, 1.0)[i // 2], "seed_everything": i % 2, "config": "orpo"}, {}, "complete", value, step=8)
    for i, value in enumerate((0.0, 1.0, 0.25, 0.75))
]


def printed(table, width=200):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_repeats_are_grouped_over_the_seed_with_students_interval():
    weak, strong = repeats_of(TRIALS)
    assert (weak.parameters, weak.values) == ({LAMBDA: 0.1, "config": "orpo"}, (0.0, 1.0))
    # two values: one degree of freedom, where t is Cauchy's: tan(0.95 * pi / 2) deviations of the mean
    half = math.tan(0.95 * math.pi / 2) * 0.5
    mean, other = mean_of("val/loss", weak.values), mean_of("val/loss", strong.values)
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert other.high - other.value == pytest.approx(half / 2)


def test_trials_that_have_not_come_to_their_end_count_in_no_mean_and_are_never_best():
    for state in ("running", "pruned", "failed"):
        trials = [replace(TRIALS[0], state=state, value=9.0), *TRIALS[1:]]
        assert [each.values for each in repeats_of(trials)] == [(1.0,), (0.25, 0.75)]
        assert best_trial(trials, SWEEP.metric) is trials[1]
    assert best_trial([], SWEEP.metric) is None


def test_of_equal_trials_the_first_is_best_and_the_goal_says_which_way():
    assert best_trial([replace(each, value=0.5) for each in TRIALS], SWEEP.metric).number == 0
    assert best_trial(TRIALS, Metric("m", "minimize")).number == 0
    assert best_trial(TRIALS, None) is None


def test_a_target_is_reached_from_the_side_of_the_goal():
    assert Metric("m", "maximize", 0.7).is_reached(0.7)
    assert not Metric("m", "maximize", 0.7).is_reached(0.6)
    assert Metric("m", "minimize", 0.7).is_reached(0.6)
    assert not Metric("m", "minimize").is_reached(-9.0)


def test_the_table_names_what_is_varied_marks_the_best_and_says_why_one_failed():
    trials = [*TRIALS[:3], replace(TRIALS[3], state="failed", value=None, reason="out of memory")]
    text = printed(trials_table(SWEEP, [Row(each) for each in trials], [Row(each, 20) for each in trials], "all"))
    lines = text.splitlines()
    assert lines[1].split() == ["trial", "lambda_", "seed_everything", "state", "step", "accuracies"]
    assert lines[2].split() == ["000", "0.1", "0", "complete", "8/20", "0"]
    assert lines[3].split() == ["001", "0.1", "1", "complete", "8/20", "1", "best"]
    assert lines[5].split() == ["003", "1", "1", "failed", "8/20", "-", "out", "of", "memory"]


def test_accuracy_and_likelihood_stand_beside_each_other(tmp_path):
    trials = [replace(TRIALS[0], beside={"val/nll_response": 2.5}), *TRIALS[1:]]
    lines = printed(
        trials_table(SWEEP, [Row(each) for each in trials], [Row(each) for each in trials], "")
    ).splitlines()
    assert lines[1].split()[-2:] == ["accuracies", "nll_response"]
    assert [line.split()[5:7] for line in lines[2:4]] == [["0", "2.5"], ["1", "-"]]
    write_results(tmp_path, SWEEP, trials)
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [row["val/nll_response"] for row in csv.DictReader(file)] == ["2.5", "", "", ""]


@pytest.mark.parametrize(
    ("metric", "beside"),
    [
        ("val/nll_response", ("val/pref/accuracies",)),
        ("val/helpful/pref/accuracies", ("val/helpful/nll_response",)),
        ("val/loss", ("val/pref/accuracies", "val/nll_response")),
    ],
)
def test_beside_the_metric_stands_what_is_bought_with_it(metric, beside):
    assert replace(SWEEP, metric=Metric(metric)).beside == beside


def test_means_over_seeds_are_shown_where_there_are_some():
    assert "0.5 [0, 1]" in printed(repeats_table(SWEEP, TRIALS))
    equal = [replace(trial, value=0.5) for trial in TRIALS]
    assert "[" not in printed(repeats_table(SWEEP, equal)).splitlines()[2]
    assert repeats_table(SWEEP, TRIALS[::2]) is None


def test_in_a_terminal_the_table_is_live_and_elsewhere_each_event_is_a_line():
    running = replace(TRIALS[1], state="running", step=3)
    live = Console(file=io.StringIO(), force_terminal=True, width=120)
    with View(SWEEP, live, 4) as view:
        view.show([Row(TRIALS[0]), Row(running, 20)])
        assert "2 of 4 trials" in live.file.getvalue()
        assert "3/20" in live.file.getvalue()
    assert "best: trial 000, 0" in live.file.getvalue()
    plain = Console(file=io.StringIO(), width=120)
    with View(SWEEP, plain, 4) as view:
        for _ in range(3):
            view.show([Row(TRIALS[0]), Row(running)])
        view.show([Row(TRIALS[0]), Row(TRIALS[1])])
    assert plain.file.getvalue().splitlines() == [
        "trial 000 complete: lambda_ 0.1, seed_everything 0, config orpo, val/pref/accuracies 0 after 8 steps",
        "trial 001 running: lambda_ 0.1, seed_everything 1, config orpo",
        "trial 001 complete: lambda_ 0.1, seed_everything 1, config orpo, val/pref/accuracies 1 after 8 steps",
    ]


@pytest.mark.parametrize("width", [100, 30])
def test_the_best_trial_is_in_sight_however_many_there_are_and_however_narrow_the_terminal_is(width):
    best = replace(TRIALS[0], value=5.0)
    latest = [replace(TRIALS[1], number=number, state="running") for number in range(1, 40)]
    live = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=24)
    with View(SWEEP, live, 40) as view:
        view.show([Row(trial) for trial in (best, *latest)])
        shown = live.file.getvalue().splitlines()
    assert len(shown) <= 24
    text = "\n".join(shown)
    assert "best: trial" in text
    assert "000, 5" in text
    rows = [line[:3] for line in shown if line[:3].isdecimal() and line[3:4] != ","]
    assert rows[0] == "000"
    assert rows[-1] == "039"
    assert len(rows) > 1


def test_the_results_are_a_file_for_programs(tmp_path):
    write_results(tmp_path, SWEEP, TRIALS)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row[LAMBDA] for row in rows] == ["0.1", "0.1", "1.0", "1.0"]
    assert [float(row["val/pref/accuracies"]) for row in rows] == [0.0, 1.0, 0.25, 0.75]


def test_means_over_seeds_are_a_file_for_programs_where_there_are_some(tmp_path):
    write_results(tmp_path, SWEEP, TRIALS[::2])
    assert not (tmp_path / "repeats.csv").exists()
    write_results(tmp_path, SWEEP, TRIALS[:3])
    with (tmp_path / "repeats.csv").open(newline="") as file:
        weak, strong = csv.DictReader(file)
    name = "val/pref/accuracies"
    columns = [name, f"{name}_low", f"{name}_high"]
    assert list(weak) == [LAMBDA, "config", "seeds", *columns]
    assert (weak[LAMBDA], weak["config"], weak["seeds"]) == ("0.1", "orpo", "2")
    assert [float(weak[each]) for each in columns] == [0.5, 0.0, 1.0]
    assert [strong[each] for each in ("seeds", *columns)] == ["1", "0.25", "", ""]


def test_means_over_seeds_have_the_likelihood_too(tmp_path):
    trials = [replace(trial, beside={"val/nll_response": 2.0 + i}) for i, trial in enumerate(TRIALS[:3])]
    write_results(tmp_path, SWEEP, trials)
    with (tmp_path / "repeats.csv").open(newline="") as file:
        weak, strong = csv.DictReader(file)
    assert (weak["val/nll_response"], strong["val/nll_response"]) == ("2.5", "4.0")
    assert float(weak["val/nll_response_low"]) < 2.5 < float(weak["val/nll_response_high"])
    header, first, *_ = printed(repeats_table(SWEEP, trials)).splitlines()[1:]
    assert header.split() == ["lambda_", "config", "seeds", "accuracies", "nll_response"]
    assert "0.5 [0, 1]  2.5 [-3.853, 8.853]" in first


def test_a_row_that_is_being_written_and_values_that_are_not_finite_are_left_out(tmp_path):
    assert read_progress(tmp_path, "val/loss") == Progress()
    file = tmp_path / "metrics.csv"
    file.write_text("step,epoch,train/loss,val/loss\n0,0,1.0,2.5\n1,0,1.0,\n2,0,1.0,nan\n3,0,1.0,1.5\n4,0,1.0,1")
    assert read_progress(tmp_path, "val/loss") == Progress(3, ("train/loss", "val/loss"), (2.5, 1.5), 1.5)
    assert read_progress(tmp_path, "train/loss").value == 1.0
    file.write_text("step,epoch,val/loss\n0,0,1.0\n1,0,nan\n2,0,\n")
    assert read_progress(tmp_path, "val/loss") == Progress(2, ("val/loss",), (1.0,), None)
    assert read_progress(tmp_path, "val/accuracy").history == ()
    file.write_text("step,epoch,a,b,c\n0,0,1.0,2.0,nan\n1,0,3.0,,\n")
    assert read_progress(tmp_path, None, ("a", "b", "c", "d")).beside == {"a": 3.0, "b": 2.0}


@pytest.mark.parametrize(
    ("code", "log", "reason"),
    [
        (-9, "orpo-lightning: fine\n", "killed by signal 9 (out of memory?)"),
        (-11, "", "ended by signal 11"),
        (1, "a warning\norpo-lightning: data.limit = 0 is out of range\n(set X=1)\n", "data.limit = 0 is out of range"),
        (1, f"{TRACEBACK}  File x\nKeyError: 'x'\n", "KeyError: 'x'"),
        (1, f"orpo-lightning: fine\n{TRACEBACK}  File x\nKeyError: 'x'\n\nbye\n", "KeyError: 'x'"),
        (1, f"{TRACEBACK}  File x\nKeyError: 'x'\norpo-lightning: data.limit\n", "data.limit"),
        (1, f"orpo-lightning: fine\n{TRACEBACK}", "fine"),
        (3, "", "exit code 3"),
    ],
)
def test_the_reason_of_a_failure_is_what_the_process_said_or_what_ended_it(tmp_path, code, log, reason):
    (tmp_path / "trial.log").write_text(log)
    assert reason_of_failure(tmp_path, code) == reason


def test_what_a_trial_said_before_it_went_on_is_no_reason(tmp_path):
    before = "orpo-lightning: stopped by SIGTERM after 3 steps; saved in last.ckpt\n"
    (tmp_path / "trial.log").write_text(f"{before}{TRACEBACK}  File x\nIndexError: 3\n")
    assert reason_of_failure(tmp_path, 1, len(before)) == "IndexError: 3"
    (tmp_path / "trial.log").write_text(before)
    assert reason_of_failure(tmp_path, 1, len(before)) == "exit code 1"


def test_all_trials_with_the_best_value_are_marked():
    tied = [replace(trial, value=0.5) for trial in TRIALS[:2]] + [replace(TRIALS[2], value=0.25)]
    lines = printed(
        trials_table(SWEEP, [Row(trial) for trial in tied], [Row(trial) for trial in tied], "")
    ).splitlines()
    assert [line.split()[0] for line in lines if line.rstrip().endswith("best")] == ["000", "001"]
