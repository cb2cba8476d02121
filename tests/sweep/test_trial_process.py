"""A process of a trial: what is in its environment, and what is read of what it logs."""

import os

import pytest

from orpo_lightning.sweep import trial_process
from orpo_lightning.sweep.record import Progress, Trial
from orpo_lightning.sweep.share import gpus_of_machine, share_of_worker
from orpo_lightning.sweep.trial_process import TrialProcess

THREADS, GPUS = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A process of a program instead of a fit."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(trial_process, "_PROGRAM", "mine")

    def start(program, environment):
        (tmp_path / "mine.py").write_text(program)
        return TrialProcess(Trial(0, {}), tmp_path / "trial", ["fit"], 0, environment)

    return start


@pytest.mark.parametrize("users", [{}, {THREADS: "7", GPUS: "3"}])
def test_a_trial_has_the_environment_of_the_user_with_the_share_of_its_worker(started, monkeypatch, tmp_path, users):
    for name in (THREADS, GPUS):
        monkeypatch.delenv(name, raising=False)
    for name, value in users.items():
        monkeypatch.setenv(name, value)
    share = share_of_worker(1, 2, os.environ, cores=8, gpus=2)
    process = started(f"import os\nprint(*(os.environ.get(name) for name in {(THREADS, GPUS)}))\n", share)
    assert process.wait() == 0
    assert (tmp_path / "trial" / "trial.log").read_text().split() == (["7", "3"] if users else ["4", "1"])


@pytest.mark.parametrize(
    ("environment", "workers", "gpus", "shares"),
    [
        ({}, 1, 4, [None]),  # nothing to share
        ({}, 2, 0, [None, None]),
        ({}, 2, 1, [None, None]),  # too few
        ({}, 2, 2, ["0", "1"]),
        ({}, 2, 5, ["0,1", "2,3"]),  # as many for each
        ({GPUS: "4,GPU-8932f937"}, 2, 8, ["4", "GPU-8932f937"]),
        ({GPUS: "4"}, 2, 8, [None, None]),
        ({GPUS: ""}, 2, 8, [None, None]),
        ({GPUS: "0,-1,1"}, 2, 8, [None, None]),
    ],
)
def test_each_worker_has_as_many_of_the_gpus_that_the_user_lets_it_see(environment, workers, gpus, shares):
    found = [share_of_worker(each, workers, environment, cores=4, gpus=gpus) for each in range(workers)]
    assert [share.get(GPUS) for share in found] == shares


def test_threads_are_shared_and_each_worker_has_one():
    assert [share_of_worker(0, workers, {}, 4, 0).get(THREADS) for workers in (1, 2, 3, 9)] == [None, "2", "1", "1"]


def test_gpus_are_counted_by_their_files(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpus_of_machine(tmp_path) == 2
    assert gpus_of_machine(tmp_path / "none") == 0


def test_what_was_logged_is_read_again_only_where_it_has_changed(started, tmp_path, monkeypatch):
    process = started("", {})
    process.wait()
    assert process.progress("val/loss") == Progress()
    file = tmp_path / "trial" / "metrics.csv"
    file.write_text("step,val/loss\n0,1.0\n")
    first = process.progress("val/loss")
    assert first.history == (1.0,)
    assert process.progress("val/loss") is first
    with file.open("a") as more:
        more.write("1,0.5\n")
    assert process.progress("val/loss").history == (1.0, 0.5)
