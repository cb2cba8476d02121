"""run.json: what a run trained, how far it came and how it ended; the same in Weights & Biases."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from orpo_lightning import NonFiniteError
from orpo_lightning.callbacks import run_record
from orpo_lightning.callbacks.run_record import RunRecordFile
from orpo_lightning.run_folder import METRICS_FILE, RECORD_FILE
from orpo_lightning.summary.record import Finding, RunRecord, read_record, write_record
from orpo_lightning.summary.series import read_series

RUN = Path("runs/orpo")
SHORT = ["--config", "orpo", "--trainer.max_steps=3", "--trainer.enable_progress_bar=false", "--summary.enabled=false"]
OWN_LOSSES = """
import torch
from orpo_lightning import ORPO

class Greedy(ORPO):
    def __call__(self, policy, reference=None):
        if torch.is_grad_enabled():
            torch.empty(10**14)
        return super().__call__(policy, reference)
"""


def record():
    return read_record(RUN / RECORD_FILE)


def test_a_run_that_came_to_its_end_says_what_it_was(orpo_lightning):
    before = time.perf_counter()
    orpo_lightning("fit", *SHORT, "--model.objective.lambda_=0.3")
    found = record()
    assert (
        read_series(RUN / METRICS_FILE)["time/total_s"].values[-1] < found.wall_seconds < time.perf_counter() - before
    )
    assert (found.status, found.reason, found.steps, found.total_steps) == ("complete", None, 3, 3)
    assert (found.objective, found.strength_name, found.strength) == ("ORPO", "lambda_", 0.3)
    assert found.arguments == {"lambda_": 0.3, "nll_over": "prompt_and_response", "nll_mean": "tokens"}
    assert found.model == "tiny"
    # two layers of attention, a gated network and norms, the last norm, and an embedding that is also the head
    hidden, between, vocabulary, half = 64, 128, 1024, 32
    layer = 2 * hidden * hidden + 2 * hidden * half + 3 * hidden * between + 2 * hidden
    assert found.parameters == found.trained_parameters == 2 * layer + hidden + vocabulary * hidden
    assert found.device.startswith("1 x cpu")
    assert found.versions["torch"] == torch.__version__


def test_of_an_adapter_only_the_adapter_is_trained(orpo_lightning):
    orpo_lightning("fit", *SHORT, "--model.policy.lora.r=2")
    weights = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert record().trained_parameters == sum(each.numel() for each in weights.values()) < record().parameters


def test_an_objective_without_a_strength_has_none(orpo_lightning):
    orpo_lightning("fit", *SHORT, "--model.objective=SFT")
    assert (record().objective, record().strength_name, record().strength) == ("SFT", None, None)


def test_the_reason_of_a_failure_does_not_stay_where_the_run_went_on_to_its_end(tmp_path, monkeypatch):
    summary = {}
    monkeypatch.setattr(WandbLogger, "experiment", SimpleNamespace(summary=summary))
    logger = WandbLogger.__new__(WandbLogger)  # without a run of its own
    trainer = SimpleNamespace(loggers=[logger], callbacks=[], global_step=3, default_root_dir=tmp_path)
    callback = RunRecordFile()
    callback._record = RunRecord("running")
    callback._write(trainer, "failed", 3, "out of memory")
    assert (summary["status"], summary["failure"]) == ("failed", "out of memory")
    callback._write(trainer, "complete", 3)
    assert (summary["status"], summary["failure"]) == ("complete", "")


def test_a_run_that_was_stopped_says_so_and_is_complete_when_it_has_gone_on(orpo_lightning):
    with pytest.raises(SystemExit):
        orpo_lightning("fit", *SHORT, "--trainer.callbacks=interrupting.SignalAt", "--trainer.callbacks.step=2")
    stopped = record()
    assert (stopped.status, stopped.steps, stopped.total_steps) == ("stopped", 2, 3)
    checkpoint = RUN / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    until_then = saved["callbacks"]["RunRecordFile"]
    assert 0 < until_then["wall_seconds"] < stopped.wall_seconds
    until_then["wall_seconds"] = 1e6  # as if it had taken so long
    torch.save(saved, checkpoint)
    orpo_lightning("fit", *SHORT, "--ckpt_path=last")
    assert (record().status, record().steps) == ("complete", 3)
    assert record().wall_seconds > 1e6


@pytest.mark.parametrize("refused", ["--data.train=missing.jsonl", "--data.global_batch_size=4"])
def test_a_run_that_is_refused_to_go_on_is_what_it_was(orpo_lightning, refused):
    orpo_lightning("fit", *SHORT, "--data.val=null", "--export.enabled=false")
    before = record()
    with pytest.raises((ValueError, FileNotFoundError)):
        orpo_lightning("fit", *SHORT, "--data.val=null", "--export.enabled=false", "--ckpt_path=last", refused)
    assert record() == before


def test_the_wall_time_begins_with_the_data_and_ends_with_the_training(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(run_record, "time", clock)
    trainer = SimpleNamespace(loggers=[], callbacks=[], global_step=3, default_root_dir=tmp_path)
    callback = RunRecordFile()  # made with the trainer, before anything is loaded
    callback._record = RunRecord("running")
    clock.now = 5.0
    callback.on_train_end(trainer, None)
    clock.now = 9.0  # a model folder has been written
    callback._write(trainer, "complete", 3)
    assert read_record(tmp_path / RECORD_FILE).wall_seconds == 5.0


def test_a_run_that_diverged_failed_and_says_why(orpo_lightning):
    with pytest.raises(NonFiniteError) as error:
        orpo_lightning("fit", *SHORT, "--model.optimizer.lr=1e30", "--trainer.gradient_clip_val=null")
    assert record().status == "failed"
    assert record().reason == " ".join(str(error.value).split())
    assert "of optimizer step 1 is" in record().reason


def test_a_run_without_enough_memory_failed_and_says_so(orpo_lightning, monkeypatch):
    Path("greedy_losses.py").write_text(OWN_LOSSES)
    monkeypatch.syspath_prepend(Path.cwd())
    with pytest.raises(MemoryError):
        orpo_lightning("fit", *SHORT, "--model.objective=greedy_losses.Greedy")
    assert (record().status, record().steps) == ("failed", 0)
    assert "memory ran out in the forward pass of step 0, which asked for 400000000000000 bytes" in record().reason


@pytest.mark.slow
def test_a_run_that_is_killed_is_left_running(tmp_path):
    killed = [*SHORT, "--trainer.callbacks=interrupting.SignalAt", "--trainer.callbacks.number=SIGKILL"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-m", "orpo_lightning", "fit", *killed]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    assert ended.returncode == -9
    assert read_record(tmp_path / RUN / RECORD_FILE).status == "running"


def test_a_run_that_failed_before_it_began_leaves_nothing(orpo_lightning):
    Path("empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no model in ../empty"):
        orpo_lightning("fit", *SHORT, "--model.policy.name_or_path=./empty")
    assert not RUN.exists()


def test_a_record_is_read_as_it_was_written(tmp_path):
    written = RunRecord("failed", reason="why", objective="Mine", arguments={"a": [1, None]}, versions={"torch": "2"})
    written = replace(written, health=(Finding(0, "nothing is learned"), Finding(8, "the likelihood falls")))
    write_record(tmp_path / RECORD_FILE, written)
    assert read_record(tmp_path / RECORD_FILE) == written
    assert read_record(tmp_path / "other.json") is None


def test_a_record_from_before_runs_looked_at_themselves_is_read(tmp_path):
    (tmp_path / RECORD_FILE).write_text('{"status": "complete", "steps": 3}')
    assert read_record(tmp_path / RECORD_FILE) == RunRecord("complete", steps=3)


def test_of_a_long_reason_the_beginning_and_the_end_are_kept():
    rows = ", ".join(f"pairs.jsonl:{i}" for i in range(99))
    reason = run_record._reason(
        ValueError(f"the loss is nan. Rows: {rows}. To look: orpo-lightning replay runs/a/b.pt")
    )
    assert reason.startswith("the loss is nan. Rows: pairs.jsonl:0, ")
    assert " … " in reason
    assert reason.endswith(". To look: orpo-lightning replay runs/a/b.pt")
    assert len(reason) < 510


@pytest.mark.parametrize("content", ["", "[]", '{"of": "another program"}', '{"status": "failed", "health": ["x"]}'])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, content):
    (tmp_path / RECORD_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"run\.json cannot be read as the record of a run"):
        read_record(tmp_path / RECORD_FILE)


class FailsAfterwards(Callback):
    def teardown(self, trainer, pl_module, stage):
        raise OSError("the disk is full")


def test_what_fails_after_the_end_of_the_training_does_not_undo_it(orpo_lightning, monkeypatch):
    monkeypatch.setitem(sys.modules, "failing", sys.modules[__name__])
    with pytest.raises(OSError, match="the disk is full"):
        orpo_lightning("fit", *SHORT, "--trainer.callbacks=failing.FailsAfterwards")
    assert record().status == "complete"


@pytest.mark.parametrize("value", ["mild", [0.1, 0.2], None])
def test_a_strength_that_is_no_number_is_none(value):
    assert RunRecord("complete", arguments={"kind": value}, strength_name="kind").strength is None
