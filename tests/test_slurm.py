"""The script for a SLURM queue: a job whose time is over goes back into the queue, and on as the same run."""

import csv
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import environment_with_tests
from slurm_commands import REQUEUED, job, make_commands
from test_signals import send
from wandb_file import OfflineRun

SCRIPT = Path(__file__).parents[1] / "examples" / "slurm.sh"
OPTIONS = [
    *("--config", "orpo", "--config", "trainer/wandb", "--trainer.logger.offline", "true"),
    *("--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.default_root_dir", "run"),
    *("--data.limit", "36", "--data.global_batch_size", "8", "--trainer.max_epochs", "1"),
    *("--trainer.enable_progress_bar", "false"),
]
STEPS, STOPPED_AFTER = 5, 2


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def queue(tmp_path):
    """Runs a job of two tasks; its exit code and what it said."""
    commands = tmp_path / "bin"
    commands.mkdir()
    make_commands(commands)
    plain = environment_with_tests()

    def run(*options):
        environment = {
            **plain,
            **job(4711, 2, free_port()),
            "PATH": f"{commands}:{plain['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            ["bash", SCRIPT, *options],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_a_job_whose_time_is_over_goes_back_into_the_queue_and_on_as_the_same_run(queue, tmp_path):
    # SLURM sends it to all tasks; that one is enough is tested elsewhere
    time_is_over = send("on_train_batch_end", STOPPED_AFTER, "SIGUSR1", rank=1)
    code, said = queue(*OPTIONS, *time_is_over)
    assert code == 75, said
    assert (tmp_path / REQUEUED).read_text() == "requeue 4711\n"
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == STOPPED_AFTER
    code, said = queue(*OPTIONS, *time_is_over)
    assert code == 0, said
    assert (tmp_path / REQUEUED).read_text() == "requeue 4711\n"
    assert torch.load(last, weights_only=True)["global_step"] == STEPS
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(STEPS + 1))
    before, after = (OfflineRun(path) for path in sorted((tmp_path / "run" / "wandb").glob("offline-run-*")))
    assert before.id == after.id
    assert [row["trainer/global_step"] for row in before.history if "train/loss" in row] == list(range(STOPPED_AFTER))
    assert [row["trainer/global_step"] for row in after.history if "train/loss" in row] == list(
        range(STOPPED_AFTER, STEPS)
    )


@pytest.mark.slow
def test_a_job_that_fails_does_not_go_back_into_the_queue(queue, tmp_path):
    code, said = queue(*OPTIONS, "--model.optimizer.lr", "-1")
    assert code not in (0, 75), said
    assert "lr" in said
    assert not (tmp_path / REQUEUED).exists()
