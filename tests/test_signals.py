"""A run that is asked to stop finishes its step, saves, says how to go on, and exits with a code for scripts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import environment_with_tests, slow
from test_kill import assert_equal_runs

from orpo_lightning.__main__ import main
from orpo_lightning.signals import StopSignals

BASE = [
    *("fit", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--data.limit=36", "--data.global_batch_size=8", "--trainer.accumulate_grad_batches=2"),
    *("--trainer.max_epochs=2", "--trainer.val_check_interval=4", "--trainer.num_sanity_val_steps=-1"),
    *("--model.optimizer.lr=1e-2", "--checkpoint.every_n_steps=100", "--ckpt_path=last"),
    *("--checkpoint.monitor=val/loss", "--checkpoint.mode=min"),  # nearly every validation is a new best
]


def send(hook, step, number="SIGTERM", **options):
    return [
        *("--trainer.callbacks=interrupting.SignalAt", f"--trainer.callbacks.number={number}"),
        *(f"--trainer.callbacks.hook={hook}", f"--trainer.callbacks.step={step}"),
        *(f"--trainer.callbacks.{name}={value}" for name, value in options.items()),
    ]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run that nothing stops."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("straight"))
        patched.setattr(sys, "argv", ["orpo-lightning", *BASE, "--trainer.default_root_dir=straight"])
        main()
        return Path("straight").resolve()


@pytest.fixture
def stopped(orpo_lightning):
    """The exit code of a run that gets a signal, and the steps in its checkpoint."""

    def run(*options):
        with pytest.raises(SystemExit) as stop:
            orpo_lightning(*BASE, "--trainer.default_root_dir=parts", *options)
        last = Path("parts/checkpoints/last.ckpt")
        return stop.value.code, torch.load(last, weights_only=True)["global_step"] if last.exists() else None

    return run


PLACES = {
    "after a micro-batch, amid an accumulation": (send("on_train_batch_end", 3, skip=1), 4),
    "before a step": slow(send("on_before_optimizer_step", 3), 4),
    "in a validation within an epoch": slow(send("on_validation_batch_start", 2, skip=1), 2),
    "in the first batch of a validation": slow(send("on_validation_batch_start", 4), 4),
    "between epochs": slow(send("on_train_epoch_end", 5), 5),
    "in the last step": slow(send("on_before_optimizer_step", 9), 10),
    "when the training is over and the model is not written yet": slow(send("on_fit_end", 10), 10),
}


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize(("options", "steps"), PLACES.values(), ids=PLACES)
def test_a_run_that_is_stopped_and_goes_on_ends_bit_for_bit_where_it_would_have(
    orpo_lightning, straight, stopped, capfd, options, steps
):
    assert stopped(*options) == (75, steps)
    said = capfd.readouterr().err
    assert (
        f"stopped by SIGTERM after {steps} steps, saved in parts/checkpoints/last.ckpt; to go on: orpo-lightning fit"
        in said
    )
    assert "--ckpt_path last\n" in said
    assert not Path("parts/model").exists()
    orpo_lightning(*BASE, "--trainer.default_root_dir=parts")
    Path("parts/config-2.yaml").replace("parts/config.yaml")  # it had a callback that sent signals
    assert_equal_runs(Path("parts"), straight)


@pytest.mark.slow
def test_the_validation_after_the_last_step_is_made_up_for(orpo_lightning, stopped):
    only_steps = ["--trainer.max_epochs=-1", "--trainer.max_steps=7"]  # no interval and no epoch ends there
    orpo_lightning(*BASE, *only_steps, "--trainer.default_root_dir=straight")
    assert stopped(*only_steps, *send("on_validation_batch_start", 7, skip=1)) == (75, 7)
    orpo_lightning(*BASE, *only_steps, "--trainer.default_root_dir=parts")
    Path("parts/config-2.yaml").replace("parts/config.yaml")
    assert_equal_runs(Path("parts"), Path("straight"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("interval", "step"),
    [(4, 2), (10, 5), (3, 1)],
    ids=["within an epoch", "the last one of all", "amid an accumulation"],
)
def test_a_validation_that_is_stopped_and_repeated_decides_about_the_best_checkpoint(
    orpo_lightning, stopped, interval, step
):
    # the loss falls, so that the first validation has the highest
    short = ["--trainer.max_epochs=1", f"--trainer.val_check_interval={interval}", "--checkpoint.mode=max"]
    orpo_lightning(*BASE, *short, "--trainer.default_root_dir=straight")
    best = torch.load(f"straight/checkpoints/best-step={step}.ckpt", weights_only=True)
    assert best["global_step"] == step
    assert stopped(*short, *send("on_validation_batch_start", step)) == (75, step)
    orpo_lightning(*BASE, *short, "--trainer.default_root_dir=parts")
    Path("parts/config-2.yaml").replace("parts/config.yaml")  # it had a callback that sent signals
    assert_equal_runs(Path("parts"), Path("straight"))


@pytest.mark.parametrize(("number", "code"), [slow("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_the_exit_code_is_that_of_a_temporary_failure_and_after_ctrl_c_its_own(stopped, number, code):
    assert stopped(*send("on_train_batch_end", 1, number)) == (code, 1)


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_before_the_first_step_there_is_nothing_to_save(stopped, capfd, number, code):
    assert stopped(*send("on_validation_batch_start", 0, number)) == (code, None)
    assert "after 0 steps; nothing is saved" in capfd.readouterr().err


def test_without_checkpoints_the_exit_code_is_the_ordinary_one(stopped):
    assert stopped(*send("on_train_batch_end", 1), "--trainer.enable_checkpointing=false") == (143, None)


@pytest.mark.slow
def test_handlers_are_as_they_were_when_a_run_has_ended(orpo_lightning, stopped):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    stopped(*send("on_train_batch_end", 1))
    orpo_lightning(*BASE, "--trainer.default_root_dir=other", "--trainer.max_steps=1")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before


def test_under_slurm_lightnings_own_requeueing_stays_out_of_the_way(stopped, monkeypatch):
    for name, value in (
        ("SLURM_NTASKS", "1"),
        ("SLURM_JOB_ID", "7"),
        ("SLURM_JOB_NAME", "train"),
        ("SLURM_PROCID", "0"),
    ):
        monkeypatch.setenv(name, value)
    for name in ("SLURM_LOCALID", "SLURM_NODEID"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("SLURM_NODELIST", "localhost")
    assert stopped(*send("on_train_batch_end", 1, "SIGUSR1")) == (75, 1)
    assert not list(Path("parts").rglob("hpc_ckpt*"))


@pytest.mark.slow
def test_the_command_to_go_on_names_the_file_of_a_numbered_sibling(orpo_lightning, capfd):
    options = [option for option in BASE if not option.startswith("--ckpt_path")]
    orpo_lightning(*options, "--trainer.default_root_dir=./", "--trainer.max_steps=1")
    capfd.readouterr()
    with pytest.raises(SystemExit):
        orpo_lightning(*options, "--trainer.default_root_dir=./", *send("on_train_batch_end", 1))
    assert "--ckpt_path run-2/checkpoints/last.ckpt\n" in capfd.readouterr().err


def start(tmp_path, *options, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "orpo_lightning", *BASE, "--trainer.default_root_dir=parts", *options],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_while_it_loads_a_signal_ends_the_process_at_once_with_a_line(tmp_path, number, code):
    process = start(tmp_path)
    time.sleep(1.5)  # it imports
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "outside of training: there was nothing to save" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("then", ["signals.StopSignals().listen()", "pass"])
def test_a_signal_whose_exception_an_import_has_dropped_ends_the_process_later(then):
    program = f"""
import os, signal
from orpo_lightning import signals

with signals.ending_at_once():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit:
        pass
    {then}
    print("trained")
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment_with_tests(), capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stdout == ("trained\n" if then == "pass" else "")


def test_a_signal_amid_a_finalizer_ends_the_process_too():
    program = """
import os, signal, time
from orpo_lightning.signals import ending_at_once

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

with ending_at_once():
    Dying()
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment_with_tests(), capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stderr.strip() == "orpo-lightning: stopped by SIGTERM outside of training: there was nothing to save"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_processes_that_pack_batches_leave_a_signal_to_all_of_them_to_the_run(tmp_path, number, code):
    options = [
        *BASE,
        "--trainer.default_root_dir=parts",
        "--data.num_workers=2",
        *send("on_train_batch_end", 3, number),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "orpo_lightning", *options, "--trainer.callbacks.group=true"],
        cwd=tmp_path,
        env=environment_with_tests(),
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "after 3 steps, saved in parts/checkpoints/last.ckpt" in done.stderr
    assert done.stderr.count("the run saves after this step and stops") == 1


TWICE = """
import os, signal, sys
from orpo_lightning.signals import StopSignals
signals = StopSignals()
signals.listen()
os.kill(os.getpid(), signal.SIGINT)
assert signals.received == signal.SIGINT
print("once", flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("twice", flush=True)
"""


def test_a_second_ctrl_c_ends_the_process_at_once():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stdout == "once\n"
    assert "Ctrl-C: the run saves after this step and stops (Ctrl-C stops it at once)" in done.stderr


def test_the_first_signal_is_the_one_that_counts():
    signals = StopSignals()
    signals.listen()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGUSR1
    finally:
        signals.stop_listening()
