"""The last and the best checkpoint: when they are saved, which one is best, and that there are never more."""

import csv
import os
from pathlib import Path

import pytest
import torch
from helpers import NamedSets, run
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from orpo_lightning import KTO, ORPO, OptimizerConfig
from orpo_lightning.callbacks.checkpoints import Checkpoints
from orpo_lightning.testing import make_rows

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
BASE = [
    *QUIET,
    "--data.limit=36",
    "--trainer.default_root_dir=run",
    "--trainer.max_epochs=4",
    "--model.optimizer.lr=1e-2",
]
VALIDATION = make_rows(5, seed=9)


def names(folder="run/checkpoints"):
    return sorted(os.listdir(folder))


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def scores(name):
    with Path("run/metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


class Watch(Callback):
    """What is in the folder whenever a batch begins, and the steps that were saved."""

    seen = ()

    def __init__(self):
        Watch.seen = []

    def on_train_batch_end(self, trainer, *args):
        folder = Path(trainer.default_root_dir) / "checkpoints"
        files = sorted(folder.iterdir()) if folder.exists() else []
        Watch.seen.append({path.name: step_of(path) for path in files})


WATCH = "--trainer.callbacks=tests.callbacks.test_checkpoints.Watch"


def test_the_last_is_saved_every_so_many_steps_and_at_the_end(orpo_lightning):
    orpo_lightning("fit", *BASE, "--checkpoint.every_n_steps=3", "--checkpoint.monitor=null", WATCH)
    # what a step saves is there when the next one has ended
    found = [seen.get("last.ckpt") for seen in Watch.seen]
    assert found == [None] * 3 + [3] * 3 + [6] * 3 + [9] * 3 + [12] * 3 + [15] * 3 + [18] * 2
    assert names() == ["last.ckpt"]
    assert step_of("run/checkpoints/last.ckpt") == 20


def test_by_default_it_is_every_fifty_steps():
    assert Checkpoints().every_n_steps == 50


def test_the_best_is_that_of_the_highest_accuracy_and_the_last_is_never_older(orpo_lightning):
    orpo_lightning("fit", *BASE, "--trainer.val_check_interval=1", "--checkpoint.every_n_steps=null", WATCH)
    accuracies = scores("val/pref/accuracies")
    best = max(sorted(accuracies), key=accuracies.get)  # of equal ones the earlier
    assert names() == [f"best-step={best}.ckpt", "last.ckpt"]
    assert step_of(f"run/checkpoints/best-step={best}.ckpt") == best
    for seen in Watch.seen[1:]:
        assert len(seen) == 2
        assert max(seen.values()) == seen["last.ckpt"]


@pytest.mark.slow
def test_another_measure_and_its_smallest_value_can_be_best(orpo_lightning):
    options = ["--trainer.val_check_interval=1", "--checkpoint.monitor=val/nll_response", "--checkpoint.mode=min"]
    orpo_lightning("fit", *BASE, *options)
    values = scores("val/nll_response")
    assert names() == [f"best-step={min(sorted(values), key=values.get)}.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_where_both_are_of_one_step_they_are_one_file(orpo_lightning, capfd):
    orpo_lightning("fit", *BASE, "--trainer.max_epochs=1")
    best, last = (Path("run/checkpoints") / name for name in names())
    assert best.name == "best-step=5.ckpt"
    assert best.samefile(last)


def test_where_a_file_cannot_have_two_names_it_is_written_twice(orpo_lightning, monkeypatch):
    def refuse(*places):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    orpo_lightning("fit", *BASE, "--trainer.max_epochs=1")
    best, last = (Path("run/checkpoints") / name for name in names())
    assert not best.samefile(last)
    assert step_of(best) == step_of(last) == 5


@pytest.mark.slow
def test_when_a_fit_ends_it_says_where_they_are(orpo_lightning, caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        orpo_lightning("fit", *BASE)
    (said,) = [record.getMessage() for record in caplog.records if "checkpoint: " in record.getMessage()]
    assert said.startswith("the last checkpoint: run/checkpoints/last.ckpt, the best by val/pref/accuracies (0.")
    assert said.endswith(".ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--trainer.enable_checkpointing=false"], ["--trainer.fast_dev_run=1"]])
def test_all_can_be_switched_off(orpo_lightning, options):
    orpo_lightning("fit", *BASE, *options)
    assert not Path("run/checkpoints").exists()


@pytest.mark.slow
def test_a_users_own_callback_keeps_its_files_beside_them(orpo_lightning):
    orpo_lightning(
        *("fit", *BASE, "--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.every_n_epochs=2"),
        *("--trainer.callbacks.save_top_k=-1", "--checkpoint.monitor=null"),
    )
    assert names() == ["epoch=1-step=10.ckpt", "epoch=3-step=20.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_going_on_makes_no_numbered_files(orpo_lightning):
    stop = ["--trainer.callbacks=interrupting.SignalAt", "--trainer.callbacks.step=7"]
    with pytest.raises(SystemExit):
        orpo_lightning("fit", *BASE, *stop)
    orpo_lightning("fit", *BASE, "--ckpt_path=last")
    best, last = names()
    assert last == "last.ckpt"
    assert best.startswith("best-step=")


def stop(orpo_lightning, step, *options):
    with pytest.raises(SystemExit):
        orpo_lightning(
            *("fit", *BASE, "--trainer.val_check_interval=1", *options),
            *("--trainer.callbacks=interrupting.SignalAt", f"--trainer.callbacks.step={step}"),
        )


@pytest.mark.slow
def test_the_best_by_another_measure_stays_where_a_run_goes_on(orpo_lightning, caplog):
    by_loss = ["--checkpoint.monitor=val/loss", "--checkpoint.mode=min"]
    stop(orpo_lightning, 3, *by_loss)
    (first,) = [name for name in names() if name.startswith("best")]
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        stop(orpo_lightning, 4, "--checkpoint.monitor=null", "--ckpt_path=last")
    assert "checkpoint.monitor is None (max) from here on, and was val/loss (min): the best" in caplog.text
    assert "the best by val/loss (min) stays" in caplog.text
    assert names() == [first, "last.ckpt"]
    by_length = ["--checkpoint.monitor=val/nll_response", "--checkpoint.mode=max"]
    stop(orpo_lightning, 5, *by_length, "--ckpt_path=last")
    both = names()
    assert first in both
    assert len(both) == 3
    # by the first measure again: a better one takes the place of that one alone
    stop(orpo_lightning, 7, *by_loss, "--ckpt_path=last")
    found = names()
    assert len(found) == 3
    assert first not in found
    assert len({*found} & {*both}) == 2


@pytest.mark.slow
def test_what_a_kill_left_of_a_best_one_goes_with_the_next_save(orpo_lightning):
    stop(orpo_lightning, 2)
    left = Path("run/checkpoints/best-step=3.ckpt.part")
    left.write_bytes(b"half")
    stop(orpo_lightning, 4, "--ckpt_path=last")
    assert not left.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every_n_steps": 0}, "checkpoint.every_n_steps = 0 is out of range; accepted: 1 or more, or null"),
        ({"mode": "most"}, "checkpoint.mode = 'most'; accepted: max, min"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Checkpoints(**options)


# what has no such measure


def kept(tmp_path, objective, rows=None, validation=VALIDATION, **options):
    checkpoints = Checkpoints(**options)
    run(
        *(objective, rows, validation),
        module={"optimizer": OptimizerConfig(lr=1e-2)},
        callbacks=[checkpoints],
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    return checkpoints


def test_of_named_validation_sets_the_first_decides(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.RowsData", NamedSets)
    checkpoints = kept(tmp_path, ORPO(), monitor="val/nll_response", mode="min")
    assert checkpoints.best.step == 6
    assert names(tmp_path / "checkpoints") == ["best-step=6.ckpt", "last.ckpt"]
    only = kept(tmp_path / "only", ORPO(), monitor="val/hard/nll_response", mode="min")
    assert only.best.score != checkpoints.best.score


def test_without_validation_there_is_the_last_alone(tmp_path):
    assert kept(tmp_path, ORPO(), validation=None).best is None
    assert names(tmp_path / "checkpoints") == ["last.ckpt"]


def test_a_validation_without_the_measure_says_so_once_and_what_it_has(tmp_path, caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        kept(tmp_path, KTO(), monitor="val/no/such")
    said = [record.getMessage() for record in caplog.records if "no best checkpoint" in record.getMessage()]
    assert len(said) == 1
    assert "the validation has no val/no/such; to choose one by another measure set checkpoint.monitor" in said[0]
    assert "val/pref/margins" in said[0]
    assert names(tmp_path / "checkpoints") == ["last.ckpt"]


class Counted(BoringModel):
    """Another module, which knows nothing of plans."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_before_optimizer_step(self, optimizer):
        self.steps.append(self.global_step)


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            raise InterruptedError


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stopped", range(3, 12))
def test_another_module_goes_on_with_the_steps_that_are_left(tmp_path, stopped):
    def fit(module, *callbacks, ckpt_path=None):
        trainer = Trainer(
            **{"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False},
            **{"max_epochs": 3, "limit_train_batches": 8, "limit_val_batches": 2, "accumulate_grad_batches": 2},
            default_root_dir=tmp_path,
            callbacks=[Checkpoints(every_n_steps=1), *callbacks],
            val_check_interval=4,
        )
        trainer.fit(module, ckpt_path=ckpt_path, weights_only=False if ckpt_path else None)
        return trainer

    with pytest.raises(InterruptedError):
        fit(Counted(), StopAt(stopped))
    last = tmp_path / "checkpoints" / "last.ckpt"
    saved = step_of(last)
    assert saved == stopped - 1
    module = Counted()
    trainer = fit(module, ckpt_path=last)
    assert module.steps == list(range(saved, 12))
    assert trainer.current_epoch == 3
