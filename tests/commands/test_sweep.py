"""A sweep file run here, without an account: real fits of the tiny model in processes of their own."""

import csv
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from orpo_lightning.cache_folder import CACHE_VARIABLE, cache_folder

SHORT = ["--data.limit=16", "--data.global_batch_size=8", "--export.enabled=false"]
"""Two steps."""
LONG = [*SHORT, "--trainer.max_epochs=10", "--trainer.val_check_interval=1", "--checkpoint.every_n_steps=1"]
"""Twenty steps, of which each is saved."""
METRIC = "metric: {name: val/nll_response, goal: minimize}"


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache in which nothing but models is kept."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "models").symlink_to((cache_folder() / "models").resolve())
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


def write_file(parameters, config="orpo", method="grid", metric=METRIC, name="mine.yaml", more=""):
    command = ["${env}", "${program}", "fit", "--config", config, "${args}"]
    Path(name).write_text(
        f"program: orpo-lightning\nmethod: {method}\n{metric}\n{more}\nparameters: {json.dumps(parameters)}\n"
        f"command: {json.dumps(command)}\n"
    )
    return name


def results(folder):
    with (Path(folder) / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log(folder, trial):
    return (Path(folder) / "trials" / trial / "trial.log").read_text()


def steps(folder, trial):
    with (Path(folder) / "trials" / trial / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def started(*arguments):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "orpo_lightning", "sweep", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(happened, process=None, seconds=120):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.stdout.read()
        time.sleep(0.05)


def kill(process):
    process.kill()
    process.wait()


def ended(folder, trial):
    """Whether no process of a trial lives any more."""
    lock = FileLock(Path(folder) / "trials" / trial / ".trial.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


@pytest.mark.slow
def test_a_grid_runs_side_by_side_computes_what_is_shared_once_and_outlives_what_fails(
    orpo_lightning, capfd, own_cache
):
    betas = {"model.objective.beta": {"values": [0.1, 0.5]}, "model.optimizer.lr": {"values": [0.001, 1e30]}}
    file = write_file(betas, config="dpo")
    orpo_lightning("sweep", file, "--workers", 2, *SHORT, "--model.reference.mode=cached")
    rows = results("runs/sweeps/mine")
    assert [(row["model.objective.beta"], row["model.optimizer.lr"]) for row in rows] == [
        ("0.1", "0.001"),
        ("0.1", "1e+30"),
        ("0.5", "0.001"),
        ("0.5", "1e+30"),
    ]
    assert [row["state"] for row in rows] == ["complete", "failed", "complete", "failed"]
    assert "the gradient norm of optimizer step 1 is nan" in rows[1]["reason"]
    assert rows[1]["val/nll_response"] == ""
    best = min((rows[0], rows[2]), key=lambda row: float(row["val/nll_response"]))

    # the lock lets one of two cold trials compute them, and the other read them
    logs = [log("runs/sweeps/mine", row["trial"]) for row in rows]
    assert sum("are computed now" in each for each in logs) == 1
    assert all("reference log-probabilities: 64 of 64 are in" in each for each in logs if "computed now" not in each)

    printed = capfd.readouterr().out
    assert f"best: trial {best['trial']}" in printed
    again = shlex.split(next(line for line in printed.splitlines() if line.startswith("to repeat it: "))[14:])
    assert f"--model.objective.beta={best['model.objective.beta']}" in again
    assert "orpo-lightning compare runs/sweeps/mine" in printed

    # nothing is left to do, and nothing is done again
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("trial.log")}
    orpo_lightning("sweep", file, "--resume", *SHORT, "--model.reference.mode=cached")
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("trial.log")} == before


def files_of(cache):
    """What is kept, each with what changes when it is written anew; models are not made of the data."""
    found = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(cache)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_trial_that_finds_its_data_in_the_cache_writes_nothing_there(orpo_lightning, own_cache, workers):
    file = write_file({"model.objective.beta": {"values": [0.1, 0.5, 0.9][: 1 + workers]}}, config="dpo")
    cached = [*SHORT, "--model.reference.mode=cached"]
    orpo_lightning("sweep", file, "--count", 1, *cached)
    before = files_of(own_cache)
    kept = [Path(name).suffix for name in before]
    assert kept.count(".npz") == 2
    assert any(name.startswith("reference") for name in before)
    orpo_lightning("sweep", file, "--resume", "--workers", workers, *cached)
    assert [row["state"] for row in results("runs/sweeps/mine")] == ["complete"] * (1 + workers)
    assert files_of(own_cache) == before


@pytest.mark.slow
def test_a_trial_that_is_behind_the_others_is_stopped_and_marked(orpo_lightning, capfd):
    settings = (
        "model: {{optimizer: {{lr: {lr}}}, schedule: {{name: constant, warmup: 0}}}}\ntrainer: {{max_steps: {n}}}\n"
    )
    Path("ahead.yaml").write_text(settings.format(lr=0.01, n=5))
    Path("behind.yaml").write_text(settings.format(lr=1.0e-9, n=5000))
    rule = "early_terminate: {type: hyperband, min_iter: 3, eta: 3}"
    file = write_file({"config": {"values": ["ahead.yaml", "behind.yaml"]}}, more=rule)
    orpo_lightning("sweep", file, *SHORT, "--trainer.val_check_interval=1", "--trainer.max_epochs=-1")
    ahead, behind = results("runs/sweeps/mine")
    assert (ahead["state"], ahead["step"]) == ("complete", "5")
    assert behind["state"] == "pruned"
    assert 2 <= int(behind["step"]) < 1000
    assert "saved in" in log("runs/sweeps/mine", "001")
    assert "trial 001 pruned" in capfd.readouterr().out


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_without_repeating_a_finished_trial(orpo_lightning, capfd):
    file = write_file({"model.objective.lambda_": {"values": [0.1, 1.0]}})
    folder, first, second = "runs/sweeps/mine", "000", "001"

    # the end of a trial that nobody was there to see
    sweep = started(file, *LONG)
    wait_until((Path(folder) / "trials" / first / "metrics.csv").exists, sweep)
    sweep.send_signal(signal.SIGSTOP)
    wait_until(lambda: '"complete"' in (Path(folder) / "trials" / first / "run.json").read_text())
    wait_until(lambda: ended(folder, first))
    kill(sweep)
    of_first = log(folder, first)

    # amid a trial: its process saves and ends by itself
    sweep = started(file, "--resume", *LONG)
    wait_until((Path(folder) / "trials" / second / "checkpoints" / "last.ckpt").exists, sweep)
    kill(sweep)
    wait_until(lambda: ended(folder, second))
    assert [row["state"] for row in results(folder)] == ["complete", "running"]
    done = max(steps(folder, second))
    assert done < 20
    assert "stopped by SIGTERM after" in log(folder, second)

    orpo_lightning("sweep", file, "--resume", *LONG)
    assert [row["state"] for row in results(folder)] == ["complete", "complete"]
    assert log(folder, first) == of_first
    assert "no last.ckpt" not in log(folder, second).partition("stopped by SIGTERM")[2]
    assert steps(folder, first) == steps(folder, second) == list(range(21))


@pytest.mark.slow
def test_ctrl_c_has_the_trials_save_and_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_file({"model.objective.lambda_": {"values": [0.1, 1.0]}})
    sweep = started(file, "--out", "here", "--count", "2", *LONG)
    wait_until(Path("here/trials/000/checkpoints/last.ckpt").exists, sweep)
    sweep.send_signal(signal.SIGINT)
    said, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert f"to go on: orpo-lightning sweep {file} --resume --out here --count 2 {shlex.join(LONG)}" in said
    assert ended("here", "000")
    assert "saved in here/trials/000/checkpoints/last.ckpt" in log("here", "000")
    (row,) = results("here")
    assert row["state"] == "stopped"
    assert int(row["step"]) == max(steps("here", "000")) > 0


@pytest.mark.slow
def test_a_metric_that_is_not_logged_ends_the_sweep_before_the_first_trial_has_gone_far(orpo_lightning):
    metric = "metric: {name: val/accuracies, goal: maximize}"
    file = write_file({"model.objective.lambda_": {"values": [0.1, 1.0]}}, metric=metric)
    with pytest.raises(ValueError, match=r"val/accuracies is not logged by the trials; did you mean val/pref/accurac"):
        orpo_lightning("sweep", file, *LONG, "--trainer.max_epochs=1000")
    assert [path.name for path in Path("runs/sweeps/mine/trials").iterdir()] == ["000"]
    assert max(steps("runs/sweeps/mine", "000")) < 1000


@pytest.mark.slow
def test_a_setting_that_no_fit_has_is_refused_before_anything_runs(orpo_lightning):
    file = write_file({"model.objective.lamda": {"values": [0.1, 1.0]}})
    with pytest.raises(ValueError, match=r"mine.yaml: a trial would end at once: --model.objective.lamda is not a set"):
        orpo_lightning("sweep", file, *SHORT)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_mistake_that_every_trial_has_is_not_made_by_each(orpo_lightning):
    file = write_file({"model.objective.lambda_": {"values": [0.1, 0.2, 0.3, 0.4]}})
    given = [*SHORT, "--data.train=missing.jsonl", "--data.val=null"]
    said = r"refused alike before they began, .*missing.jsonl.*; set it right, and to go on: orpo-lightning sweep "
    with pytest.raises(ValueError, match=said):
        orpo_lightning("sweep", file, "--workers", 2, *given)
    rows = results("runs/sweeps/mine")
    assert 2 <= len(rows) <= 3  # the second worker may have begun another
    assert {row["state"] for row in rows} == {"stopped"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--wokers=2"], "--wokers is an option neither of sweep nor of fit; did you mean --workers?"),
        (["--workers=0"], "--workers = 0 is out of range; accepted: 1 or more"),
        (["--count=0"], "--count = 0 is out of range"),
        ([], "nothing says how many trials mine has: add --count N, or run_cap: N to the file"),
        (["--count=3", "--trainer.default_root_dir=x"], "--trainer.default_root_dir is set by the sweep itself"),
        (["--count=3", "--ckpt_path", "last"], "--ckpt_path is set by the sweep itself; accepted: --resume"),
        (
            ["--count=3", "--model.optimizer.lr", "0.1"],
            "--model.optimizer.lr would set model.optimizer.lr in every trial",
        ),
        (["other.yaml", "--count=3"], "'other.yaml' belongs to no option; accepted: one FILE"),
        (["--count=3", "--resume"], "--resume: no sweep is in runs/sweeps/mine; leave --resume out to start one"),
    ],
)
def test_what_a_sweep_cannot_be_run_with_is_refused_at_once(orpo_lightning, options, said):
    file = write_file({"model.optimizer.lr": {"min": 0.001, "max": 0.01}}, method="random")
    with pytest.raises(ValueError, match=said):
        orpo_lightning("sweep", file, *options)


def test_a_file_that_is_not_there_is_told(orpo_lightning):
    with pytest.raises(ValueError, match=r"sweep nowhere.yaml: no such file"):
        orpo_lightning("sweep", "nowhere.yaml")


def test_without_optuna_only_a_grid_runs_and_the_command_that_installs_it_is_said(tmp_path):
    # an environment without it: whatever asks for the package finds none
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'optuna' else find(name, *rest)\n"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    os.chdir(tmp_path)
    file = write_file({"model.optimizer.lr": {"min": 0.001, "max": 0.01}}, method="random")
    command = [sys.executable, "-m", "orpo_lightning", "sweep", file, "--count=2"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("needs optuna: pip install 'orpo-lightning[sweep]'; without it: grid")


class TestGoingOn:
    """What may be different when a sweep goes on, and what may not."""

    @pytest.fixture
    def begun(self, tmp_path, monkeypatch):
        """A sweep that has begun no trial yet."""
        from orpo_lightning.sweep.folder import Start, new_folder

        monkeypatch.chdir(tmp_path)
        file = write_file({"model.optimizer.lr": {"min": 0.001, "max": 0.01}}, method="random", more="run_cap: 3")
        new_folder(Path("runs/sweeps/mine"), Path(file), Start(4, ("--data.limit=8",))).lock.release()
        return file

    @pytest.mark.parametrize(
        ("text", "options", "said"),
        [
            ("", ["--data.limit=9"], "other settings: --data.limit was 8, is 9; set them back"),
            ("", ["--data.limit=8", "--seed=5"], r"--seed 5 \(it was 4\)"),
            (("0.01", "0.02"), ["--data.limit=8"], "parameters of mine.yaml"),
            (("orpo-lightning", "orpo_lightning"), [], "--data.limit was 8, is not given"),
            (("nll_response", "loss"), ["--data.limit=8"], "metric of mine.yaml"),
            (("random", "bayes"), ["--data.limit=8"], "method of mine.yaml"),
        ],
    )
    def test_other_settings_are_refused_by_name(self, begun, orpo_lightning, text, options, said):
        Path(begun).write_text(Path(begun).read_text().replace(*(text or ("", ""))))
        with pytest.raises(ValueError, match=said):
            orpo_lightning("sweep", begun, "--resume", *options)

    def test_the_number_of_trials_may_change(self, begun):
        from orpo_lightning.sweep.file import read_sweep
        from orpo_lightning.sweep.folder import resumed_folder

        Path(begun).write_text(Path(begun).read_text().replace("run_cap: 3", "run_cap: 30"))
        path = Path("runs/sweeps/mine")
        folder = resumed_folder(path, Path(begun), read_sweep(Path(begun)), ["--data.limit=8"], None)
        assert folder.start.seed == 4
        with pytest.raises(ValueError, match="another process works on the sweep"):
            resumed_folder(path, Path(begun), read_sweep(Path(begun)), ["--data.limit=8"], None)

    def test_a_new_sweep_gets_a_numbered_sibling(self, begun):
        from orpo_lightning.sweep.folder import Start, new_folder

        assert new_folder(Path("runs/sweeps/mine"), Path(begun), Start(0, ())).path == Path("runs/sweeps/mine-2")

    def test_damaged_files_are_named(self, begun, orpo_lightning):
        start = Path("runs/sweeps/mine/start.json")
        whole = start.read_text()
        for text in ("{", "[]", '{"seed": "x", "options": []}'):
            start.write_text(text)
            with pytest.raises(
                ValueError, match=r"--resume: runs/sweeps/mine/start.json is damaged .*; accepted: one th"
            ):
                orpo_lightning("sweep", begun, "--resume", "--data.limit=8")
        start.write_text(whole)
        Path("runs/sweeps/mine/sweep.yaml").unlink()
        with pytest.raises(ValueError, match=r"runs/sweeps/mine/sweep.yaml is missing; put it back"):
            orpo_lightning("sweep", begun, "--resume", "--data.limit=8")

    def test_which_of_several_is_meant_has_to_be_said(self, begun, orpo_lightning):
        from orpo_lightning.sweep.folder import Start, new_folder

        new_folder(Path("runs/sweeps/mine"), Path(begun), Start(4, ("--data.limit=8",))).lock.release()
        said = "there are 2 sweeps; say which, the latest last: .*--resume --data.limit=8 --out runs/sweeps/mine-2$"
        with pytest.raises(ValueError, match=said):
            orpo_lightning("sweep", begun, "--resume", "--data.limit=8")
        with pytest.raises(ValueError, match=r"other settings: --data.limit was 8, is 9"):
            orpo_lightning("sweep", begun, "--resume", "--data.limit=9", "--out", "runs/sweeps/mine-2")

    @pytest.mark.parametrize("name", ["runs/sweeps/mine", "runs/sweeps/mine/sweep.yaml"])
    def test_the_folder_or_its_file_say_which_is_meant(self, begun, orpo_lightning, name):
        from orpo_lightning.sweep.folder import Start, new_folder

        new_folder(Path("runs/sweeps/mine"), Path(begun), Start(4, ("--data.limit=8",))).lock.release()
        with pytest.raises(
            ValueError, match=r"sweep in runs/sweeps/mine was .*other settings: --data.limit was 8, is 9"
        ):
            orpo_lightning("sweep", name, "--resume", "--data.limit=9")

    def test_a_file_is_no_folder(self, begun, orpo_lightning):
        from orpo_lightning.sweep.folder import Start, new_folder

        with pytest.raises(ValueError, match=r"--out mine.yaml is a file; accepted: a folder, which is made where"):
            new_folder(Path("mine.yaml"), Path(begun), Start(0, ()))
        with pytest.raises(ValueError, match=r"--out mine.yaml.x cannot be used: Not a directory; accepted: a folder"):
            new_folder(Path("mine.yaml/x"), Path(begun), Start(0, ()))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_killed_at_nine_random_moments_it_ends_as_one_that_was_not(orpo_lightning, monkeypatch, seed):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two workers have fewer threads than one, which round otherwise
    draw = random.Random(seed)
    parameters = {"model.optimizer.lr": {"min": 0.001, "max": 0.01}}
    file = write_file(parameters, method="random", more="run_cap: 3")
    orpo_lightning("sweep", file, "--out", "straight", *LONG)
    kills = 0
    options = ["--out", "parts", "--workers", "2", *LONG]
    while kills < 9:
        sweep = started(file, *(["--resume"] if Path("parts/start.json").exists() else []), *options)
        try:
            sweep.wait(timeout=draw.uniform(5, 16))
        except subprocess.TimeoutExpired:
            kill(sweep)
            kills += 1
        else:
            assert sweep.returncode == 0, sweep.stdout.read()
            break
    orpo_lightning("sweep", file, "--resume", *options)
    assert kills >= 8
    assert results("parts") == results("straight")
    for trial in ("000", "001", "002"):
        assert steps("parts", trial) == steps("straight", trial) == list(range(21))


@pytest.mark.slow
def test_bayes_and_repeats_over_seeds(orpo_lightning, capfd):
    more = "run_cap: 7"
    parameters = {"model.optimizer.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}}
    orpo_lightning("sweep", write_file(parameters, method="bayes", more=more), "--workers", 2, *SHORT)
    rows = results("runs/sweeps/mine")
    assert [row["state"] for row in rows] == ["complete"] * 7
    seeds = {"seed_everything": {"values": [0, 1, 2]}}
    orpo_lightning("sweep", write_file(seeds, name="seeds.yaml"), *SHORT)
    assert "95% interval" in capfd.readouterr().out
