"""What a sweep makes of its trials: which value counts, how their ends are told apart, when a mistake is seen."""

import csv
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from orpo_lightning.signals import AGAIN, StopSignals
from orpo_lightning.summary.record import RunRecord, write_record
from orpo_lightning.sweep import runner
from orpo_lightning.sweep.command import Command
from orpo_lightning.sweep.distributions import Choice
from orpo_lightning.sweep.early import EarlyTermination
from orpo_lightning.sweep.file import Metric, Sweep
from orpo_lightning.sweep.folder import Start, SweepFolder
from orpo_lightning.sweep.record import Trial, read_progress, read_trials, was_refused, write_trial

NAME = "val/nll"
SWEEP = Sweep("s", "grid", {"x": Choice((0, 1))}, Command(("fit", "${args}")), Metric(NAME))
RULE = EarlyTermination((2,), eta=3, strict=True)


class NoView:
    def show(self, rows):
        """Nothing."""


class Script:
    """What the processes of trials do.

    Args:
        rows: of the measures, by the number of the trial; one more is there at each look.
        codes: of their ends, by that number; None: it runs until it is stopped.
        status: that a trial leaves in run.json when it ends, by that number; None: it leaves none.
    """

    def __init__(self, rows, codes, status=None):
        self.rows, self.codes, self.status, self.processes = rows, codes, status or {}, []

    def start(self, trial, folder, words, worker, environment):
        process = Process(self, trial, folder)
        self.processes.append((trial.number, worker, process))
        return process


class Process:
    """In the place of a TrialProcess."""

    def __init__(self, script, trial, folder):
        self.trial, self.folder, self.script = trial, folder, script
        self.is_pruned, self.worker, self.log_start, self.looks, self.stopped = (
            False,
            len(script.processes),
            0,
            0,
            False,
        )
        (folder / "trial.log").write_text("orpo-lightning: what went wrong\n")

    @property
    def code(self):
        self.looks += 1
        rows, code = self.script.rows[self.trial.number], self.script.codes[self.trial.number]
        if rows:
            with (self.folder / "metrics.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, ["step", "epoch", *rows[0]])
                writer.writeheader()
                for step, row in enumerate(rows[: self.looks]):
                    writer.writerow({"step": step, "epoch": 0, **row})
        if code is None:
            return AGAIN if self.stopped else None
        if self.looks <= len(rows):
            return None
        status = self.script.status.get(self.trial.number, "running")
        if status is not None:
            parameters = 100 if status == "failed" else None
            write_record(self.folder / "run.json", RunRecord(status, parameters=parameters))
        return code

    def progress(self, metric, beside=()):
        return read_progress(self.folder, metric, beside)

    def prune(self):
        self.is_pruned = True
        self.stop()

    def stop(self):
        self.stopped = True

    def wait(self):
        return AGAIN


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The sweep that has run by a script."""
    monkeypatch.setattr(runner, "_POLL_S", 0)

    def run(script, sweep=SWEEP, workers=1):
        monkeypatch.setattr(runner, "TrialProcess", script.start)
        size = sweep.grid_size
        ours = runner.Runner(sweep, SweepFolder(tmp_path, Start(0, ()), None), size, workers, StopSignals())
        ours.run(NoView())
        return ours

    return run


def values(*numbers, name=NAME):
    return [{name: number} for number in numbers]


def test_the_value_of_a_trial_is_its_last_which_is_that_of_the_model_it_leaves(ran, tmp_path):
    script = Script({0: values(0.5, 0.2, 0.9), 1: values(0.5, 0.6, 0.7)}, {0: 0, 1: 0})
    assert [trial.value for trial in ran(script).trials] == [0.9, 0.7]
    assert [trial.value for trial in read_trials(tmp_path / "trials")] == [0.9, 0.7]


def test_a_trial_whose_last_value_is_not_finite_has_failed(ran):
    script = Script({0: values(0.5, "nan"), 1: values(0.5)}, {0: 0, 1: 0})
    first, second = ran(script).trials
    assert (first.state, first.value, first.reason) == ("failed", None, f"the last {NAME} is not finite")
    assert second.state == "complete"


@pytest.mark.parametrize("code", [AGAIN, 130, 143, -signal.SIGTERM])
def test_a_trial_that_others_have_stopped_is_left_to_go_on_and_the_sweep_ends(ran, tmp_path, code):
    script = Script({0: values(0.5, 0.4), 1: values(0.5)}, {0: code, 1: 0})
    ours = ran(script)
    assert ours.stopped.name == "000"
    assert [trial.state for trial in read_trials(tmp_path / "trials")] == ["stopped"]
    script.codes[0] = 0
    ours = ran(script)
    assert ours.stopped is None
    assert [trial.state for trial in ours.trials] == ["complete", "complete"]


def test_one_that_was_stopped_after_its_training_is_complete(ran):
    ours = ran(Script({0: values(0.5), 1: values(0.5)}, {0: 143, 1: 0}, status={0: "complete"}))
    assert ours.stopped is None
    assert [trial.state for trial in ours.trials] == ["complete", "complete"]


@pytest.mark.parametrize(
    ("code", "state", "value", "reason"),
    [(AGAIN, "pruned", 0.9, ""), (1, "failed", None, "what went wrong"), (-9, "failed", None, "killed by signal 9")],
)
def test_a_trial_that_is_behind_is_pruned_if_it_saved_and_has_failed_if_it_crashed(ran, code, state, value, reason):
    script = Script({0: values(0.5, 0.4), 1: values(0.5, 0.9)}, {0: 0, 1: code})
    _, behind = ran(script, replace(SWEEP, early_termination=RULE)).trials
    assert (behind.state, behind.value) == (state, value)
    assert behind.reason.startswith(reason)


@pytest.mark.parametrize("metric", ["val/nl", "val/mine"])
def test_a_metric_that_is_not_logged_is_told_at_the_first_validation_and_the_trial_is_stopped(ran, tmp_path, metric):
    script = Script({0: values(*[0.5] * 100), 1: values(0.5)}, {0: None, 1: 0})
    for _ in range(2):  # going on tells it again, and burns no other trial
        with pytest.raises(ValueError, match=f"{metric} is not logged by the trials; did you mean {NAME}?"):
            ran(script, replace(SWEEP, metric=Metric(metric)))
    ((_, _, process),) = script.processes
    assert process.stopped
    assert process.looks <= 2
    assert [trial.state for trial in read_trials(tmp_path / "trials")] == ["stopped"]


def test_a_measure_of_a_users_own_may_come_late(ran):
    rows = [{NAME: 0.5, "mine/score": ""}, {NAME: 0.5, "mine/score": ""}, {NAME: 0.4, "mine/score": 3.0}]
    script = Script({0: rows, 1: rows}, {0: 0, 1: 0})
    assert ran(script, replace(SWEEP, metric=Metric("mine/score"))).trials[0].value == 3.0


def test_a_measure_without_a_group_counts_too(ran):
    script = Script({0: values(0.5, name="score"), 1: values(0.5, name="score")}, {0: 0, 1: 0})
    assert [trial.state for trial in ran(script, replace(SWEEP, metric=Metric("score"))).trials] == ["complete"] * 2


def test_each_worker_has_a_place_of_its_own(ran):
    script = Script({0: values(0.5, 0.5), 1: values(0.5)}, {0: 0, 1: 0})
    ran(script, workers=2)
    assert [worker for _, worker, _ in script.processes] == [0, 1]


def test_a_trial_that_ended_when_nobody_was_there_is_not_run_again(ran, tmp_path):
    folder = tmp_path / "trials" / "000"
    write_trial(folder, Trial(0, {"x": 0}))
    (folder / "metrics.csv").write_text(f"step,epoch,{NAME}\n0,0,0.5\n1,0,0.7\n")
    write_record(folder / "run.json", RunRecord("complete"))
    script = Script({1: values(0.5)}, {1: 0})
    assert [trial.value for trial in ran(script).trials] == [0.7, 0.5]
    assert Path(folder / "trial.json").exists()


def test_what_is_recorded_beside_the_metric_is_the_last_of_it_too(ran, tmp_path):
    sweep = replace(SWEEP, metric=Metric("val/pref/accuracies", "maximize"))
    rows = [{"val/pref/accuracies": 0.5, "val/nll_response": nll} for nll in (2.0, 3.0)]
    ran(Script({0: rows, 1: values(0.5, name="val/pref/accuracies")}, {0: 0, 1: 0}), sweep)
    first, second = read_trials(tmp_path / "trials")
    assert (first.value, first.beside, second.beside) == (0.5, {"val/nll_response": 3.0}, {})


def refused(*numbers, **others):
    """A script in which trials end with the same message before their fits begin."""
    rows, codes, status = dict.fromkeys(numbers, ()), dict.fromkeys(numbers, 1), dict.fromkeys(numbers)
    return Script(rows | others.get("rows", {}), codes | others.get("codes", {}), status | others.get("status", {}))


GRID = replace(SWEEP, parameters={"model.objective.beta": Choice((1, 2, 3, 4)), "data.limit": Choice((5,))})


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_refused_for_a_reason_that_all_have_is_refused_once_more_at_most_and_can_go_on(ran, tmp_path, workers):
    ours = ran(refused(0, 1, 2, 3), GRID, workers)
    assert ours.refused.reason == "what went wrong"
    # nothing of them has begun, so that a sweep that goes on takes them up
    assert [(trial.number, trial.state) for trial in read_trials(tmp_path / "trials")] == [
        (0, "stopped"),
        (1, "stopped"),
    ]
    script = Script({i: values(0.5) for i in range(4)}, dict.fromkeys(range(4), 0))
    ours = ran(script, GRID, workers)
    assert ours.refused is None
    assert [(trial.state, trial.reason) for trial in ours.trials] == [("complete", "")] * 4


def test_it_may_be_the_reason_that_all_have_also_where_a_sweep_goes_on(ran):
    ran(Script({0: values(0.5), 1: values(0.5, 0.4)}, {0: 0, 1: AGAIN}), GRID)
    ours = ran(refused(1, 2, 3, status={1: "stopped"}), GRID)
    assert [trial.state for trial in ours.trials] == ["complete", "stopped", "stopped"]
    assert ours.refused is not None


def test_where_what_is_varied_may_be_the_reason_all_are_tried(ran):
    ours = ran(refused(0, 1, 2, 3), replace(GRID, parameters={"data.max_length": Choice((1, 2, 3, 4))}))
    assert ours.refused is None
    assert [trial.state for trial in ours.trials] == ["failed"] * 4


@pytest.mark.parametrize(
    "script",
    [
        refused(0, 1, 2, rows={3: values(0.5)}, codes={3: 0}, status={0: "failed"}),  # the fit had begun
        refused(1, 2, 3, rows={0: values(0.5)}, codes={0: 1}, status={0: "failed"}),  # and had measured
        refused(1, 2, 3, codes={0: -9}, rows={0: ()}, status={0: None}),  # killed, perhaps for its memory
    ],
)
def test_after_any_other_failure_all_trials_are_run(ran, script):
    ours = ran(script, GRID)
    assert ours.refused is None
    assert [trial.number for trial in ours.trials] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [(AGAIN, "stopped", ""), (1, "failed", "what went wrong"), (-signal.SIGTERM, "stopped", "")],
)
def test_how_a_trial_ends_that_is_stopped_with_its_sweep_is_told_by_its_code(
    ran, tmp_path, monkeypatch, code, state, reason
):
    monkeypatch.setattr(Process, "wait", lambda self: code)
    metric = replace(SWEEP, metric=Metric("val/other"))
    with pytest.raises(ValueError, match="val/other is not logged"):
        ran(Script({0: values(0.5, 0.4)}, {0: None}), metric)
    (trial,) = read_trials(tmp_path / "trials")
    assert (trial.state, trial.reason) == (state, reason)


def test_a_trial_that_goes_on_is_running_on_disk_too(ran, tmp_path):
    script = Script({0: values(0.5), 1: values(0.5)}, {0: AGAIN, 1: 0})
    ran(script)
    states = []
    script.codes[0] = 0
    start = script.start
    script.start = lambda *given: (states.append(read_trials(tmp_path / "trials")[0].state), start(*given))[1]
    ran(script)
    assert states[0] == "running"


def test_an_error_that_the_program_does_not_know_is_no_refusal(tmp_path):
    (tmp_path / "trial.log").write_text("orpo-lightning: before\norpo-lightning: no such file\n")
    assert was_refused(tmp_path, 0)
    assert was_refused(tmp_path, 23)
    assert not was_refused(tmp_path, 40)
    (tmp_path / "trial.log").write_text(
        "orpo-lightning: fine\nTraceback (most recent call last):\nRuntimeError: memory\n"
    )
    assert not was_refused(tmp_path, 0)
