"""Runs of two processes that are stopped, killed and started again: they choose one folder and stop at one step."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import environment_with_tests
from test_kill import assert_equal_runs
from test_signals import send

from orpo_lightning.checkpoint_io import SafeCheckpointIO

BASE = [
    *("fit", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--data.limit=36", "--data.global_batch_size=8", "--trainer.max_epochs=2", "--trainer.val_check_interval=4"),
    *("--model.optimizer.lr=1e-2", "--checkpoint.every_n_steps=1", "--trainer.accelerator=cpu"),
]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
SHARDED = ["--trainer.devices=2", "--trainer.strategy=fsdp2"]
GATHERED = [
    *("--config=trainer/fsdp2", "--trainer.strategy.state_dict_type=full", "--trainer.devices=2"),
    *("--trainer.precision=32-true", "--data.num_workers=0"),
]
ALONE = ["--trainer.devices=1", "--trainer.strategy=fsdp2"]
ONE = ["--trainer.devices=1"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """Run the command in a folder of the tests; its exit code and what it said, within ten minutes."""
    folder = tmp_path_factory.mktemp("ranks")

    def run(name, *options):
        command = [sys.executable, "-m", "orpo_lightning", *BASE, f"--trainer.default_root_dir={name}", *options]
        done = subprocess.run(
            command, cwd=folder, env=environment_with_tests(), capture_output=True, text=True, timeout=600, check=False
        )
        return done.returncode, done.stderr

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def straight(fit):
    code, said = fit("straight", *TWO, "--trainer.accumulate_grad_batches=2")
    assert code == 0, said
    return fit.folder / "straight"


def processes_of(name):
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if f"default_root_dir={name}" in line]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("hook", "steps"), [("on_train_batch_end", 3), ("on_validation_batch_start", 2)])
def test_all_ranks_stop_at_the_same_step_whichever_got_the_signal(fit, straight, rank, hook, steps):
    name = f"signal-{rank}-{hook}"
    two = [*TWO, "--trainer.accumulate_grad_batches=2"]
    code, said = fit(name, *two, *send(hook, steps, rank=rank))
    assert code == 75, said
    assert f"after {steps} steps" in said
    assert said.count("stopped by SIGTERM") == 1
    assert processes_of(name) == []
    code, said = fit(name, *two, "--ckpt_path=last")
    assert code == 0, said
    (fit.folder / name / "config-2.yaml").replace(fit.folder / name / "config.yaml")
    assert_equal_runs(fit.folder / name, straight)


@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_is_killed_the_others_end_and_the_run_goes_on(fit, straight, rank):
    name, two = f"killed-{rank}", [*TWO, "--trainer.accumulate_grad_batches=2"]
    code, said = fit(name, *two, *send("on_before_optimizer_step", 3, "SIGKILL", rank=rank))
    assert code != 0, said
    for _ in range(60):
        if not processes_of(name):
            break
        time.sleep(1)
    assert processes_of(name) == []
    assert torch.load(fit.folder / name / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    code, said = fit(name, *two, "--ckpt_path=last")
    assert code == 0, said
    (fit.folder / name / "config-2.yaml").replace(fit.folder / name / "config.yaml")
    assert_equal_runs(fit.folder / name, straight)


def test_a_run_that_is_stopped_before_the_first_step_leaves_no_process_behind(fit):
    code, said = fit("early", *TWO, *send("on_fit_start", 0, "SIGTERM"))
    assert code == 143, said
    assert processes_of("early") == []


def test_processes_of_one_run_are_in_one_folder_where_another_run_is(fit, straight):
    code, said = fit("straight", *TWO, "--trainer.max_steps=1")
    assert code == 0, said
    assert "straight holds another run; this one is in straight-2" in said
    assert (fit.folder / "straight-2" / "checkpoints" / "last.ckpt").exists()
    assert not (fit.folder / "straight-3").exists()


def losses(run):
    with (Path(run) / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


DOUBLE = ["--model.policy.dtype=float64"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([*ONE, "--trainer.accumulate_grad_batches=2"], [*ONE, "--trainer.accumulate_grad_batches=4"]),
        ([*ONE, "--trainer.accumulate_grad_batches=2"], [*TWO, "--trainer.accumulate_grad_batches=1"]),
        ([*TWO, "--trainer.accumulate_grad_batches=2"], [*ONE, "--trainer.accumulate_grad_batches=1"]),
        ([*SHARDED, "--trainer.accumulate_grad_batches=2"], [*SHARDED, "--trainer.accumulate_grad_batches=1"]),
        ([*SHARDED, "--trainer.accumulate_grad_batches=2"], [*ALONE, "--trainer.accumulate_grad_batches=4"]),
        ([*ALONE, "--trainer.accumulate_grad_batches=2"], [*SHARDED, "--trainer.accumulate_grad_batches=2"]),
        ([*SHARDED, "--trainer.accumulate_grad_batches=2"], [*TWO, "--trainer.accumulate_grad_batches=2"]),
        ([*SHARDED, "--trainer.accumulate_grad_batches=2"], [*ONE, "--trainer.accumulate_grad_batches=2"]),
        ([*GATHERED, "--trainer.accumulate_grad_batches=2"], [*TWO, "--trainer.accumulate_grad_batches=2"]),
        ([*TWO, "--trainer.accumulate_grad_batches=2"], [*SHARDED, "--trainer.accumulate_grad_batches=2"]),
        ([*ONE, "--trainer.accumulate_grad_batches=2"], [*GATHERED, "--trainer.accumulate_grad_batches=2"]),
        ([*GATHERED, "--trainer.accumulate_grad_batches=2"], [*SHARDED, "--trainer.accumulate_grad_batches=2"]),
    ],
    ids=[
        *("accumulation", "more processes", "fewer processes", "sharded", "sharded to one part", "one part to sharded"),
        *("sharded to ddp", "sharded to one process", "gathered to ddp", "ddp to sharded", "one process to gathered"),
        "gathered to sharded",
    ],
)
def test_a_run_goes_on_with_the_same_plan_on_other_processes(fit, request, before, after):
    name, recorded = request.node.callspec.id.replace(" ", "-"), "interrupting.RowsOfSteps"
    epochs = [*DOUBLE, "--trainer.val_check_interval=1.0"]
    code, said = fit(f"{name}-whole", *epochs, *before, f"--trainer.callbacks={recorded}")
    assert code == 0, said
    code, said = fit(
        f"{name}-parts", *epochs, *before, *send("on_train_batch_end", 3), f"--trainer.callbacks+={recorded}"
    )
    assert code == 75, said
    code, said = fit(f"{name}-parts", *epochs, *after, f"--trainer.callbacks={recorded}", "--ckpt_path=last")
    assert code == 0, said
    whole, parts = fit.folder / f"{name}-whole", fit.folder / f"{name}-parts"
    assert rows_by_step(parts) == rows_by_step(whole)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-9)
    for weight, wanted in weights(whole).items():
        torch.testing.assert_close(weights(parts)[weight], wanted, rtol=1e-9, atol=1e-12)


def weights(run):
    return SafeCheckpointIO().load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]


def rows_by_step(run):
    rows = {}
    for path in run.glob("rows-*.txt"):
        for line in path.read_text().splitlines():
            step, row = line.split(" ", 1)
            rows.setdefault(int(step), set()).add(row)
    return rows
