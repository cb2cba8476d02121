"""A row or step s holds what was measured with the weights after s optimizer steps, in every logger."""

import pytest
import torch
from helpers import NamedSets, RowsData, run
from lightning.pytorch.callbacks import ModelCheckpoint

from orpo_lightning import KTO, ORPO
from orpo_lightning.testing import make_rows

VALIDATION = make_rows(5, seed=9)


def steps_of(found, prefix):
    return [step for step, logged in found.history if any(name.startswith(prefix) for name in logged)]


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_validation_at_the_end_of_an_epoch_is_logged_at_the_number_of_its_steps(accumulate):
    found = run(ORPO(), make_rows(22), VALIDATION, accumulate_grad_batches=accumulate)
    assert steps_of(found, "val/") == [3, 6]
    assert steps_of(found, "train/") == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_validation_within_an_epoch_is_logged_at_the_number_of_its_steps(accumulate):
    found = run(
        ORPO(), make_rows(38), VALIDATION, accumulate_grad_batches=accumulate, val_check_interval=2 * accumulate
    )
    assert steps_of(found, "val/") == [2, 4, 7, 9, 10]  # and the last step
    assert steps_of(found, "train/") == list(range(10))


def test_the_steps_of_a_logger_never_go_back():
    found = run(ORPO(), make_rows(22), VALIDATION, val_check_interval=1, num_sanity_val_steps=-1)
    steps = [step for step, _ in found.history]
    assert steps == sorted(steps) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]


def test_what_is_logged_at_a_step_was_measured_with_the_weights_after_so_many_steps():
    # on the training data itself, and a batch is all of it: training measures before its step what validation does
    rows = make_rows(8)
    found = run(ORPO(), rows, rows, max_epochs=4, num_sanity_val_steps=0)
    train = {step: logged["train/loss"] for step, logged in found.history if "train/loss" in logged}
    measured = {step: logged["val/loss"] for step, logged in found.history if "val/loss" in logged}
    assert list(measured) == [1, 2, 3, 4]
    for step in (1, 2, 3):
        assert measured[step] == pytest.approx(train[step], rel=1e-12)


def test_named_validation_sets_are_logged_together(monkeypatch):
    monkeypatch.setattr("helpers.RowsData", NamedSets)
    found = run(ORPO(), validation=VALIDATION, max_epochs=2)
    logged = [(step, values) for step, values in found.history if any(name.startswith("val/") for name in values)]
    assert [step for step, _ in logged] == [3, 6]
    assert {"val/easy/pref/accuracies", "val/hard/pref/accuracies"} <= logged[0][1].keys()


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_a_checkpoint_that_is_measured_is_logged_at_its_step(tmp_path, verb):
    found = run(ORPO(), validation=VALIDATION, max_epochs=1)
    found.trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = run(ORPO(), validation=VALIDATION, max_epochs=1, max_steps=1)
    recorder = again.trainer.logger
    recorder.history.clear()
    getattr(again.trainer, verb)(
        again.module,
        datamodule=RowsData(make_rows(22), VALIDATION),
        ckpt_path=tmp_path / "a.ckpt",
        weights_only=True,
        verbose=False,
    )
    assert {step for step, _ in recorder.history} == {3}


@pytest.mark.parametrize("objective", [ORPO, KTO])
def test_a_whole_validation_before_the_first_step_changes_nothing_that_follows(objective):
    plain = run(objective(), validation=VALIDATION)
    checked = run(objective(), validation=VALIDATION, num_sanity_val_steps=-1)
    assert torch.equal(plain.weights, checked.weights)
    assert plain.history == checked.history[1:]  # it is the first that is logged


def test_files_that_a_users_own_callback_saves_are_named_by_the_step_that_they_are_of(tmp_path):
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    run(ORPO(), validation=VALIDATION, callbacks=[saver], enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=2.ckpt", "step=4.ckpt", "step=6.ckpt"]
