"""A fit ends with a validation of the weights that it ends with, once, whatever its interval is."""

from pathlib import Path

import pytest
import torch
from helpers import run
from lightning.pytorch.callbacks import Callback

from orpo_lightning import ORPO
from orpo_lightning.summary.pairs import read_pairs
from orpo_lightning.summary.series import read_series
from orpo_lightning.testing import make_rows

VALIDATION = make_rows(5, seed=9)


def validated_at(found):
    return [step for step, logged in found.history if any(name.startswith("val/") for name in logged)]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 2}, [2]),
        ({"max_steps": 2, "accumulate_grad_batches": 2}, [2]),
        ({"max_steps": 4}, [3, 4]),
        ({"max_epochs": 2}, [3, 6]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [6, 9]),
        ({"max_epochs": 1, "check_val_every_n_epoch": 2}, [3]),
        ({"max_epochs": 1, "val_check_interval": 2}, [2, 3]),
        ({"max_steps": 5, "val_check_interval": 4, "check_val_every_n_epoch": None}, [4, 5]),
        ({"max_steps": 2, "limit_val_batches": 0}, []),
    ],
    ids=str,
)
def test_the_last_step_is_validated_once(options, steps):
    found = run(ORPO(), validation=VALIDATION, **options)
    assert validated_at(found) == steps
    every = found.trainer.check_val_every_n_epoch
    assert every == options.get("check_val_every_n_epoch", 1)


def test_without_validation_data_there_is_none():
    assert validated_at(run(ORPO(), max_steps=2)) == []


def test_a_run_that_goes_on_validates_the_same(tmp_path):
    class Save(Callback):
        def on_train_batch_start(self, trainer, *others):
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    whole = run(ORPO(), validation=VALIDATION, max_steps=5, callbacks=[Save()])
    assert validated_at(whole) == [3, 5]
    for step in (2, 3, 4):
        rest = run(ORPO(), validation=VALIDATION, max_steps=5, ckpt_path=tmp_path / f"{step}.ckpt")
        done = {"val/loss"} if step == 3 else set()  # it was saved after the validation of that step
        assert rest.history == [
            (at, logged) for at, logged in whole.history if at > step or (at == step and not done & logged.keys())
        ]
        assert torch.equal(rest.weights, whole.weights)


def test_a_short_fit_of_the_command_has_its_after_and_its_best(orpo_lightning, capsys, recwarn):
    orpo_lightning("fit", "--config=orpo", "--trainer.max_steps=3", "--summary.prompts=0")
    folder = Path("runs/orpo")
    assert {pair.step for pair in read_pairs(folder / "val_pairs.csv")} == {0, 3}
    assert read_series(folder / "metrics.csv")["val/pref/accuracies"].steps.tolist() == [0, 3]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best-step=3.ckpt"}
    assert 'There is no "after"' not in capsys.readouterr().out
    assert not any("validation will run" in str(warning.message) for warning in recwarn)
