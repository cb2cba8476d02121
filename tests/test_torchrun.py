"""The script for several machines: it is run once on each, and the run is the one of a single machine."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment_with_tests
from ports import free_port

SCRIPT = Path(__file__).parents[1] / "examples" / "torchrun.sh"
OPTIONS = [
    *("--config", "orpo", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--data.limit", "36", "--data.global_batch_size", "8"),
]
MEASURES = ("train/loss", "train/pref/margins", "train/grad_norm", "val/nll_response", "val/pref/accuracies")


def on_machines(machines, folder, *options):
    """Run the script on each of several machines, which here are one; what the run measured at each step."""
    environment = environment_with_tests()
    environment |= {
        "HEAD": "localhost",
        "PORT": str(free_port()),
        "NODES": str(machines),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
    }
    words = ["bash", SCRIPT, *OPTIONS, "--trainer.default_root_dir", folder / "run", *options]
    started = [
        subprocess.Popen(
            words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(machines)
    ]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * machines, "\n".join(said)
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        return [{name: float(row[name]) for name in MEASURES if row[name]} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_machines_train_as_one_does_and_go_on(tmp_path, strategy):
    options = ["--config", f"trainer/{strategy}", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    check_same(on_machines(2, two, *options), on_machines(1, one, *options))
    go_on = [*options, "--trainer.max_epochs", "2", "--ckpt_path", "last"]
    check_same(on_machines(2, two, *go_on), on_machines(1, one, *go_on))


def check_same(found, expected):
    assert {name for row in expected for name in row} == set(MEASURES)
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-6)
