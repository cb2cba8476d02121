"""Where a fit writes and what it goes on from."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import slow
from killed_runs import rows_of

from orpo_lightning.run_folder import WRITTEN_BY_FITS
from orpo_lightning.run_start import find_checkpoint, start_of_fit, start_of_other_rank

BASE = [
    *("fit", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--data.limit=32", "--trainer.default_root_dir=runs/a", "--trainer.max_epochs=1", "--data.val=null"),
]
STOPPED = ["--trainer.callbacks=interrupting.SignalAt", "--trainer.callbacks.step=2"]


@pytest.fixture
def said():
    return []


@pytest.fixture
def fit(orpo_lightning, caplog):
    """Run a fit; what it said."""

    def run(*options):
        caplog.clear()
        with caplog.at_level("INFO", logger="lightning.pytorch"):
            orpo_lightning(*BASE, *options)
        return caplog.text

    return run


def stop(fit, *options):
    with pytest.raises(SystemExit):
        fit(*STOPPED, *options)


def steps(run):
    with (Path(run) / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


# which folder


def test_a_new_run_never_goes_into_the_folder_of_another(tmp_path, said):
    starts = [start_of_fit(tmp_path / "a", None, said.append) for _ in range(3)]
    # the first two still run, and have written nothing
    assert [start.folder.name for start in starts] == ["a", "a-2", "a-3"]
    for start in starts:
        start.end()
    assert said == [
        f"{tmp_path}/a holds another run; this one is in {tmp_path}/a-2",
        f"{tmp_path}/a holds another run; this one is in {tmp_path}/a-3",
    ]


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path, said):
    start_of_fit(tmp_path / "runs" / "a", None, said.append).end()
    assert list(tmp_path.iterdir()) == []
    assert start_of_fit(tmp_path / "runs" / "a", None, said.append).folder.name == "a"


@pytest.mark.parametrize("name", [*WRITTEN_BY_FITS, "checkpoints/mine.ckpt", "final"])
def test_a_fit_goes_into_no_folder_where_it_would_write_over_something(tmp_path, said, name):
    mine = tmp_path / "a" / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    start = start_of_fit(tmp_path / "a", None, said.append, model_folder="final")
    assert start.folder.name == "a-2"
    assert said == [f"{tmp_path}/a holds another run; this one is in {tmp_path}/a-2"]
    start.end()


def test_other_files_in_a_folder_are_no_run(tmp_path, said):
    (tmp_path / "notes.txt").write_text("mine")
    start = start_of_fit(tmp_path, None, said.append)
    assert start.folder == tmp_path
    (tmp_path / "config.yaml").write_text("of this one")
    start.end()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_without_a_folder_a_fit_makes_one_and_leaves_the_current_one_alone(orpo_lightning):
    Path("model").mkdir()
    Path("model/mine.txt").write_text("mine")
    options = [option for option in BASE if "default_root_dir" not in option]
    orpo_lightning(*options)
    assert steps("runs/run") == [0, 1, 2, 3]
    orpo_lightning(*options, "--ckpt_path=last", "--trainer.max_epochs=2")
    assert steps("runs/run") == list(range(8))
    orpo_lightning(*options)
    assert sorted(os.listdir("runs")) == ["run", "run-2"]
    assert Path("runs/run/model/model.safetensors").exists()
    assert sorted(str(path) for path in Path().rglob("*") if "runs" not in path.parts) == ["model", "model/mine.txt"]


def test_a_fit_that_fails_before_it_has_measured_anything_leaves_no_folder(tmp_path, said):
    start = start_of_fit(tmp_path / "a", None, said.append)
    for name in ("config.yaml", "data_report.json"):
        (start.folder / name).write_text("of this one")
    start.end()
    assert not (tmp_path / "a").exists()


def test_one_that_has_measured_something_stays(tmp_path, said):
    for ckpt_path in (None, "last"):
        start = start_of_fit(tmp_path / "a", ckpt_path, said.append)
        for name in ("config.yaml", "metrics.csv"):
            (start.folder / name).write_text("of this one")
        start.end()
        assert sorted(os.listdir(tmp_path / "a")) == [".run.lock", "config.yaml", "metrics.csv"]


@pytest.mark.parametrize("place", ["taken", "taken/a"])
@pytest.mark.parametrize("ckpt_path", [None, "last"])
def test_a_folder_that_cannot_be_made_is_named_with_its_setting(tmp_path, said, place, ckpt_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(
        ValueError, match=rf"trainer.default_root_dir = {tmp_path}/{place} cannot be used: .*; accepted"
    ):
        start_of_fit(tmp_path / place, ckpt_path, said.append)


@pytest.mark.slow
def test_the_home_folder_has_its_short_name_everywhere(fit, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fit("--trainer.default_root_dir=~/a", "--trainer.max_steps=2")
    fit("--trainer.default_root_dir=~/a", "--ckpt_path=~/a/checkpoints/last.ckpt")
    assert steps("home/a") == [0, 1, 2, 3]
    assert os.listdir() == ["home"]


@pytest.mark.slow
def test_a_fast_dev_run_takes_no_folder(fit):
    fit("--trainer.max_steps=2")
    assert "this one is in" not in fit("--trainer.fast_dev_run=1")
    assert os.listdir("runs") == ["a"]
    assert steps("runs/a") == [0, 1]
    fit("--trainer.fast_dev_run=1", "--trainer.default_root_dir=runs/b", "--ckpt_path=last")
    assert os.listdir("runs") == ["a"]


def test_a_mistake_in_the_configuration_leaves_no_folder(fit):
    with pytest.raises(ValueError, match="lambda_ = -1"):
        fit("--model.objective.lambda_=-1")
    assert not Path("runs/a").exists()


AT_ONCE = """
import sys, time
from pathlib import Path
from orpo_lightning.run_start import start_of_fit
time.sleep(max(0, float(sys.argv[2]) - time.time()))
start = start_of_fit(Path(sys.argv[1]), None, lambda line: None)
print(start.folder, flush=True)
sys.stdin.read()  # the run
"""


def test_processes_that_start_at_the_same_moment_get_folders_of_their_own(tmp_path):
    begin = str(time.time() + 4)
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path / "a"), begin]
    runs = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    try:
        folders = [run.stdout.readline().strip() for run in runs]
    finally:
        for run in runs:
            run.communicate()
    assert sorted(folders) == sorted(str(tmp_path / name) for name in ("a", "a-2", "a-3", "a-4", "a-5", "a-6"))


def test_a_killed_process_holds_no_folder(tmp_path, said):
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path / "a"), "0"]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline().strip() == str(tmp_path / "a")
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert start_of_fit(tmp_path / "a", None, said.append).folder.name == "a"
    assert said == []


def test_other_ranks_take_what_the_first_has_found(tmp_path, said, monkeypatch):
    monkeypatch.delenv("ORPO_LIGHTNING_RUN", raising=False)
    # started from outside at the same moment: the name is broadcast later, and nothing is made here
    assert start_of_other_rank(tmp_path / "a", None).folder == tmp_path / "a"
    assert not (tmp_path / "a").exists()
    first = start_of_fit(tmp_path / "a", None, said.append)
    second = start_of_fit(tmp_path / "a", None, said.append)
    assert json.loads(os.environ["ORPO_LIGHTNING_RUN"]) == [str(tmp_path / "a-2"), None]
    other = start_of_other_rank(tmp_path / "a", None)
    assert (other.folder, other.checkpoint, other.lock) == (tmp_path / "a-2", None, None)
    first.end()
    second.end()
    # whatever is started from this process later is a run of its own
    assert start_of_other_rank(tmp_path / "b", None).folder == tmp_path / "b"


# `last`


def test_last_goes_on_in_the_same_folder_and_leaves_no_other_files(fit):
    stop(fit)
    assert "starts from the beginning" not in fit("--ckpt_path=last")
    assert os.listdir("runs") == ["a"]
    assert steps("runs/a") == [0, 1, 2, 3]
    assert os.listdir("runs/a/checkpoints") == ["last.ckpt"]
    assert step_of("runs/a/checkpoints/last.ckpt") == 4


def test_last_of_a_run_that_has_not_begun_begins_it_so_that_a_job_has_one_command(fit):
    assert "no last.ckpt in runs/a/checkpoints yet: the run starts from the beginning in runs/a" in fit(
        "--ckpt_path=last"
    )
    assert steps("runs/a") == [0, 1, 2, 3]
    assert "nothing is left to train" not in fit("--ckpt_path=last", "--trainer.max_epochs=2")
    assert steps("runs/a") == list(range(8))


@pytest.mark.slow
def test_last_of_a_run_that_was_killed_before_its_first_checkpoint_begins_it_again_in_its_folder(fit):
    stop(fit, "--trainer.enable_checkpointing=false", "--model.optimizer.lr=0.5")
    assert steps("runs/a") == [0, 1]
    before = Path("runs/a/metrics.csv").read_text()
    fit("--ckpt_path=last")
    assert os.listdir("runs") == ["a"]
    assert steps("runs/a") == [0, 1, 2, 3]
    assert before not in Path("runs/a/metrics.csv").read_text()


@pytest.mark.slow
def test_last_does_not_begin_again_what_has_ended_without_a_checkpoint(fit):
    fit("--trainer.enable_checkpointing=false")
    assert not Path("runs/a/checkpoints").exists()
    with pytest.raises(ValueError, match="runs/a holds a run that has ended, and no checkpoint of it; name another"):
        fit("--ckpt_path=last")
    assert steps("runs/a") == [0, 1, 2, 3]


@pytest.mark.slow
def test_the_best_is_the_last_where_a_kill_came_between_their_writing(fit, tmp_path):
    stop(fit)
    checkpoints = Path("runs/a/checkpoints")
    (checkpoints / "last.ckpt").replace(checkpoints / "best-step=2.ckpt")
    (checkpoints / "best-step=10.ckpt").write_bytes(b"")
    assert find_checkpoint(Path("runs/a"), "last").name == "best-step=10.ckpt"  # by number and not by letters
    (checkpoints / "best-step=10.ckpt").unlink()
    fit("--ckpt_path=last")
    assert steps("runs/a") == [0, 1, 2, 3]


@pytest.mark.slow
def test_last_is_refused_where_a_numbered_sibling_is_later(fit):
    fit()
    fit()
    said = (
        r"ckpt_path = 'last': the run in runs/a-2 is later than that in runs/a; name the checkpoint to go on from: "
        r"--ckpt_path runs/a-2/checkpoints/last\.ckpt, or --ckpt_path runs/a/checkpoints/last\.ckpt"
    )
    with pytest.raises(ValueError, match=said):
        fit("--ckpt_path=last")
    fit("--ckpt_path=runs/a/checkpoints/last.ckpt", "--trainer.max_epochs=2")  # which is the later one now
    fit("--ckpt_path=last", "--trainer.max_epochs=3")
    assert not Path("runs/a-3").exists()


@pytest.mark.slow
def test_a_run_that_another_process_writes_is_not_gone_on_with(fit, monkeypatch):
    stop(fit)
    monkeypatch.setattr("orpo_lightning.run_start._SECONDS_TO_GO", 0.3)
    held = start_of_fit(Path("runs/a"), "last", print)
    with pytest.raises(ValueError, match="another process is writing to runs/a; wait until it has ended"):
        fit("--ckpt_path=last")
    held.end()
    fit("--ckpt_path=last")


def test_last_is_looked_for_when_the_process_before_has_ended(tmp_path, said):
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    first = start_of_fit(tmp_path / "a", "last", said.append)

    found = []
    second = threading.Thread(target=lambda: found.append(start_of_fit(tmp_path / "a", "last", said.append)))
    second.start()
    time.sleep(1)
    last.parent.mkdir()
    last.touch()
    (tmp_path / "a" / "model").mkdir()
    first.end()
    second.join()
    assert [start.checkpoint for start in found] == [last]


STARTED = """
import os, sys, time
from pathlib import Path
from orpo_lightning.run_start import start_of_fit, start_of_other_rank

asked, role, place = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

def slow(source, target, rename=os.rename):
    (place / "amid").touch()
    while not (place / "looks").exists():
        time.sleep(0.01)
    time.sleep(1)  # the other one looks now, unless it waits
    rename(source, target)

if sys.argv[4] == "slow":
    os.rename = slow
else:
    (place / "looks").touch()
start = start_of_fit(asked, "last", print) if role == "first" else start_of_other_rank(asked, "last")
print(start.checkpoint)
"""


@pytest.mark.parametrize("slow_one", ["first", "other"])
def test_two_processes_that_start_against_what_a_kill_left_find_the_same(tmp_path, monkeypatch, slow_one):
    monkeypatch.delenv("ORPO_LIGHTNING_RUN", raising=False)
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    hidden = last.with_name(".last.ckpt.orpo-lightning-left")
    (hidden / "old").mkdir(parents=True)
    (hidden / "old" / "meta.pt").touch()
    (hidden / "orpo_lightning.lock").touch()

    def begin(role, speed):
        command = [sys.executable, "-c", STARTED, str(tmp_path / "a"), role, str(tmp_path), speed]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with begin(slow_one, "slow") as one:
        while not (tmp_path / "amid").exists():
            assert one.poll() is None
            time.sleep(0.01)
        with begin({"first": "other", "other": "first"}[slow_one], "fast") as two:
            found = [process.communicate()[0].splitlines() for process in (one, two)]
    assert found == [[str(last)], [str(last)]]
    assert os.listdir(last.parent) == ["last.ckpt"]


def test_what_a_kill_left_is_put_back_wherever_a_checkpoint_is_named(tmp_path, said):
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    hidden = last.with_name(".last.ckpt.orpo-lightning-left")
    for look in (
        lambda: find_checkpoint(tmp_path / "a", "last"),
        lambda: find_checkpoint(tmp_path / "b", str(last)),
        lambda: start_of_fit(tmp_path / "b", str(last), said.append).checkpoint,
    ):
        (hidden / "old").mkdir(parents=True)
        (hidden / "old" / "meta.pt").touch()
        (hidden / "orpo_lightning.lock").touch()
        assert look() == last
        assert os.listdir(last.parent) == ["last.ckpt"]
        shutil.rmtree(last)


# a file


@pytest.mark.slow
def test_going_back_to_an_older_checkpoint_of_a_run_leaves_that_alone(fit):
    stop(fit)
    old = Path("runs/a/checkpoints/old.ckpt")
    shutil.copy("runs/a/checkpoints/last.ckpt", old)
    fit("--ckpt_path=last")
    before = {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()}
    assert (
        f"{old} is of the run in runs/a, which has gone on to step 4; this one goes on from there in runs/a-2, and "
        "leaves that alone" in fit(f"--ckpt_path={old}")
    )
    assert {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()} == before
    assert steps("runs/a-2") == [2, 3]


@pytest.mark.slow
def test_the_newest_checkpoint_of_a_run_goes_on_there_whatever_its_name(fit):
    stop(fit)
    last, mine = Path("runs/a/checkpoints/last.ckpt"), Path("runs/a/checkpoints/mine.ckpt")
    shutil.copy(last, "older.ckpt")
    fit("--ckpt_path=last")
    last.replace(mine)
    Path("older.ckpt").replace(last)
    fit(f"--ckpt_path={mine}", "--trainer.max_epochs=2")
    assert os.listdir("runs") == ["a"]
    assert steps("runs/a") == list(range(8))


@pytest.mark.slow
@pytest.mark.parametrize(("interval", "step"), [slow(2, 2), (2, 4), slow(4, 4)])
def test_a_file_of_a_users_own_callback_saved_before_a_validation_goes_on_with_that(fit, interval, step):
    options = [
        *("--data.val=sample", "--data.limit=32", "--trainer.max_epochs=2", f"--trainer.val_check_interval={interval}"),
        *("--checkpoint.monitor=val/loss", "--checkpoint.mode=min", "--model.optimizer.lr=1e-2"),
    ]
    saving = ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=2"]
    fit(*options, *saving, "--trainer.callbacks.save_top_k=-1")
    (own,) = Path("runs/a/checkpoints").glob(f"epoch=*-step={step}.ckpt")
    fit(*options, f"--ckpt_path={own}", "--trainer.default_root_dir=runs/b")
    assert rows_of("runs/b") == rows_of("runs/a")[step:]
    assert {path.name for path in Path("runs/b/checkpoints").iterdir()} < {
        path.name for path in Path("runs/a/checkpoints").iterdir()
    }


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/orpo/checkpoints")
    folder.mkdir(parents=True)
    for age, name in enumerate(("new.ckpt", "old.ckpt")):
        (folder / name).touch()
        os.utime(folder / name, ns=(10**18 - age * 10**12,) * 2)
    there = f"there are, the newest first: {folder}/new.ckpt, {folder}/old.ckpt"
    for name, what in (
        *((name, "is not there") for name in ("last", "best", "gone.ckpt", f"{folder}/gone.ckpt")),
        ("runs/orpo", "is the folder of a run"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"ckpt_path = {name} {what}; accepted: a checkpoint; {there}")):
            find_checkpoint(Path("runs/orpo"), name)
    for name in ("runs", str(folder)):
        what = f"ckpt_path = {name} is a folder that is no checkpoint; accepted: a checkpoint; {there}"
        with pytest.raises(ValueError, match=re.escape(what)):
            find_checkpoint(Path("runs/orpo"), name)
    with pytest.raises(ValueError, match=r"ckpt_path = gone\.ckpt is not there; .*; there are none"):
        find_checkpoint(Path("runs/sft"), "gone.ckpt")


def test_a_folder_is_a_checkpoint_where_it_holds_what_one_is_made_of(tmp_path):
    sharded = tmp_path / "last.ckpt"
    sharded.mkdir()
    with pytest.raises(ValueError, match=r"last\.ckpt is a folder that is no checkpoint; .*; there are none"):
        find_checkpoint(tmp_path / "a", str(sharded))
    (sharded / "meta.pt").touch()
    assert find_checkpoint(tmp_path / "a", str(sharded)) == sharded


@pytest.mark.slow
def test_a_file_of_a_numbered_sibling_goes_on_there_and_says_so(fit):
    fit("--trainer.max_steps=1")
    stop(fit)
    before = Path("runs/a/metrics.csv").read_bytes()
    said = fit("--ckpt_path=runs/a-2/checkpoints/last.ckpt")
    assert "the run in runs/a-2 goes on there" in said
    assert Path("runs/a/metrics.csv").read_bytes() == before
    assert steps("runs/a-2") == [0, 1, 2, 3]
    assert sorted(os.listdir("runs")) == ["a", "a-2"]


@pytest.mark.slow
def test_a_file_of_an_unrelated_run_starts_another_from_its_step(fit):
    stop(fit)
    before = {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()}
    said = fit("--ckpt_path=runs/a/checkpoints/last.ckpt", "--trainer.default_root_dir=elsewhere/b")
    assert "runs/a/checkpoints/last.ckpt is of the run in runs/a; this one goes on from there in elsewhere/b" in said
    assert steps("elsewhere/b") == [2, 3]
    assert {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()} == before
    fit("--ckpt_path=runs/a/checkpoints/last.ckpt", "--trainer.default_root_dir=elsewhere/b")
    assert steps("elsewhere/b-2") == [2, 3]


@pytest.mark.slow
def test_it_is_said_where_the_rows_of_the_steps_before_are_gone(fit):
    stop(fit)
    assert "the rows of the steps before" not in fit("--ckpt_path=last", "--trainer.max_steps=3")
    Path("runs/a/metrics.csv").unlink()
    assert "runs/a/metrics.csv starts at step 3: the rows of the steps before are not there" in fit("--ckpt_path=last")
    assert steps("runs/a") == [3]


@pytest.mark.slow
def test_the_configuration_of_a_run_that_goes_on_is_the_one_it_has(fit):
    stop(fit)
    fit("--ckpt_path=last", *STOPPED, "--trainer.callbacks.step=9")
    assert sorted(path.name for path in Path("runs/a").glob("config*")) == ["config-2.yaml", "config.yaml"]
    fit("--ckpt_path=last", *STOPPED)
    fit("--ckpt_path=runs/a/checkpoints/last.ckpt", *STOPPED)
    assert sorted(path.name for path in Path("runs/a").glob("config*")) == ["config-2.yaml", "config.yaml"]
    assert "ckpt_path: null" in Path("runs/a/config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["validate", "test"])
def test_measuring_takes_last_and_best_of_the_run_folder(orpo_lightning, capsys, verb):
    words = [word for word in BASE[1:] if not word.startswith("--data.val")]
    orpo_lightning("fit", *words, "--checkpoint.monitor=val/loss", "--checkpoint.mode=min")
    measured = []
    for ckpt_path in ([], ["--ckpt_path=last"], ["--ckpt_path=best"], ["--ckpt_path=runs/a/checkpoints/last.ckpt"]):
        capsys.readouterr()
        orpo_lightning(verb, *words, *ckpt_path)
        (loss,) = [line for line in capsys.readouterr().out.splitlines() if re.search(r"(val|test)/loss", line)]
        measured.append(loss)
    start, *trained = measured
    assert trained == [trained[0]] * 3 != [start] * 3


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        *(("fit", name) for name in ("best", "no/such.ckpt")),
        *((verb, name) for verb in ("validate", "test") for name in ("last", "best", "no/such.ckpt")),
    ],
)
def test_a_checkpoint_that_is_not_there_is_named(orpo_lightning, verb, name):
    with pytest.raises(ValueError, match=rf"ckpt_path = {name} is not there; accepted: a checkpoint; there are none"):
        orpo_lightning(verb, *BASE[1:], "--ckpt_path", name)
    assert not Path("runs").exists()


def test_a_run_that_has_ended_says_so_and_exports_what_a_kill_kept_it_from(fit, recwarn):
    fit()
    shutil.rmtree("runs/a/model")
    fit("--ckpt_path=last")
    assert any("nothing is left to train" in str(each.message) for each in recwarn)
    assert Path("runs/a/model/model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_had_ended_is_made_longer_in_its_folder(fit, epochs):
    options = [
        "--data.val=sample",
        *("--model.schedule.name=constant", "--model.schedule.warmup=0", "--model.optimizer.lr=1e-2"),
    ]
    fit(*options, "--trainer.max_epochs=3", "--trainer.default_root_dir=runs/whole")
    fit(*options, f"--trainer.max_epochs={epochs}")
    fit(*options, "--trainer.max_epochs=3", "--ckpt_path=last")
    assert rows_of("runs/a") == rows_of("runs/whole")
    assert (
        Path("runs/a/model/model.safetensors").read_bytes() == Path("runs/whole/model/model.safetensors").read_bytes()
    )
    fit(*options, "--trainer.max_epochs=3", "--ckpt_path=last")
    assert rows_of("runs/a") == rows_of("runs/whole")


@pytest.mark.slow
def test_the_summary_of_a_run_stays_where_nothing_is_left_to_train(fit):
    fit()
    before = Path("runs/a/summary.md").read_text()
    fit("--ckpt_path=last")
    assert Path("runs/a/summary.md").read_text() == before
