"""The script for a SLURM queue: a job whose time is over goes back into the queue, and on as the same run."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import environment_with_tests
from ports import free_port
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


@pytest.fixture
def queue(tmp_path):
    """Runs a job of two tasks; its exit code and what it said."""
    commands = tmp_path / "bin"
    commands.mkdir()
    make_commands(commands)
    (tmp_path / "tmp").mkdir()
    plain = environment_with_tests()

    def run(*options, folder=tmp_path):
        environment = {
            **plain,
            **job(4711, 2, free_port()),
            "PATH": f"{commands}:{plain['PATH']}",
            "TMPDIR": str(tmp_path / "tmp"),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            ["bash", SCRIPT, *options],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def stand_in(tmp_path, script):
    """Have tasks run a few lines in the place of the command."""
    command = tmp_path / "bin" / "orpo-lightning"
    command.write_text(f"#!/bin/bash\n{script}\n")


def left_in(folder):
    return sorted(os.listdir(folder))


def test_a_task_has_the_cpus_that_the_job_asks_for_and_the_words_as_they_were_typed(queue, tmp_path):
    stand_in(tmp_path, 'echo "$SLURM_CPUS_PER_TASK" > "cpus-$SLURM_PROCID"; printf "%s|" "$@" > "words-$SLURM_PROCID"')
    code, said = queue("--data.train", "two words.jsonl")
    assert code == 0, said
    words = "fit|--data.train|two words.jsonl|--ckpt_path|last|--trainer.num_nodes|1|--trainer.devices|2|"
    for rank in (0, 1):
        assert (tmp_path / f"cpus-{rank}").read_text() == "3\n"
        assert (tmp_path / f"words-{rank}").read_text() == words


def test_a_task_that_fails_alone_ends_the_others_and_the_job(queue, tmp_path):
    stand_in(tmp_path, '[ "$SLURM_PROCID" = 1 ] && exit 3; sleep 1000')
    code, said = queue()
    assert code not in (0, 75), said
    assert not (tmp_path / "bin" / REQUEUED).exists()


def test_a_task_that_has_saved_lets_the_others_end_and_the_job_goes_back_into_the_queue(queue, tmp_path):
    stand_in(tmp_path, '[ "$SLURM_PROCID" = 0 ] && exit 75; sleep 2; touch ended')
    for _ in range(2):
        code, said = queue()
        assert code == 75, said
        assert (tmp_path / "ended").exists()
        (tmp_path / "ended").unlink()
    assert (tmp_path / "bin" / REQUEUED).read_text() == "requeue 4711\n" * 2
    stand_in(tmp_path, "exit 0")
    assert queue()[0] == 0
    assert left_in(tmp_path) == ["bin", "tmp"]
    assert left_in(tmp_path / "tmp") == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nobody can write into /proc, which is of Linux")
def test_a_job_goes_back_from_a_folder_that_cannot_be_written_into_and_all_machines_may_have_their_own_files(
    queue, tmp_path
):
    stand_in(tmp_path, "exit 75")
    code, said = queue(folder="/proc")
    assert code == 75, said
    assert (tmp_path / "bin" / REQUEUED).read_text() == "requeue 4711\n"
    assert left_in(tmp_path / "tmp") == []


def test_a_job_of_which_one_task_saved_and_another_failed_does_not_go_back(queue, tmp_path):
    stand_in(tmp_path, '[ "$SLURM_PROCID" = 0 ] && exit 75; sleep 1; exit 4')
    code, said = queue()
    assert code == 4, said
    assert left_in(tmp_path) == ["bin", "tmp"]
    assert left_in(tmp_path / "tmp") == []
    assert not (tmp_path / "bin" / REQUEUED).exists()


@pytest.mark.slow
def test_a_job_whose_time_is_over_goes_back_into_the_queue_and_on_as_the_same_run(queue, tmp_path):
    # SLURM sends it to all processes of all tasks; that one task is enough is tested elsewhere
    time_is_over = send("on_train_batch_end", STOPPED_AFTER, "SIGUSR1", rank=1, group=True)
    code, said = queue(*OPTIONS, *time_is_over)
    assert code == 75, said
    assert (tmp_path / "bin" / REQUEUED).read_text() == "requeue 4711\n"
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == STOPPED_AFTER
    code, said = queue(*OPTIONS, *time_is_over)
    assert code == 0, said
    assert (tmp_path / "bin" / REQUEUED).read_text() == "requeue 4711\n"
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
    assert not (tmp_path / "bin" / REQUEUED).exists()
