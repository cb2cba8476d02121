"""A run that had stopped early when it was interrupted."""

from pathlib import Path

import pytest
import torch
import yaml
from helpers import slow
from lightning.pytorch.callbacks import Callback

BASE = [
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.limit=36"),
    *("--trainer.default_root_dir=run", "--model.optimizer.lr=1e-2"),
]


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.slow
def test_it_ends_there_unless_it_is_given_more_patience(orpo_lightning, caplog):
    early = [
        *(
            "--trainer.callbacks=EarlyStopping",
            "--trainer.callbacks.monitor=val/loss",
            "--trainer.callbacks.patience=1",
        ),
        *("--trainer.callbacks.mode=max", "--trainer.max_epochs=9"),
    ]
    orpo_lightning("fit", *BASE, *early)
    ended = step_of("run/checkpoints/last.ckpt")
    assert ended < 45
    before = Path("run/metrics.csv").read_bytes()
    orpo_lightning("fit", *BASE, *early, "--ckpt_path=last")
    assert step_of("run/checkpoints/last.ckpt") == ended
    assert Path("run/metrics.csv").read_bytes() == before
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        orpo_lightning("fit", *BASE, *early, "--trainer.callbacks.patience=2", "--ckpt_path=last")
    assert f"the patience of EarlyStopping is 2 from step {ended} on, and was 1" in caplog.text
    assert step_of("run/checkpoints/last.ckpt") > ended


class NotANumber(Callback):
    """Logs a measure that is none."""

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/odd", torch.tensor(float("nan")))


class StopAt(Callback):
    """Asks the trainer to stop.

    Args:
        step: after so many optimizer steps.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


def callback(name, **settings):
    return {"class_path": name, "init_args": settings}


def early(**settings):
    return callback("EarlyStopping", **{"monitor": "val/loss", "patience": 9} | settings)


HERE = "tests.callbacks.test_early_stop"
STOPS = {
    "threshold": slow([early(stopping_threshold=100.0)], [early(stopping_threshold=0.001)]),
    "divergence": slow([early(divergence_threshold=0.001)], [early(divergence_threshold=100.0)]),
    "not finite": slow(
        [callback(f"{HERE}.NotANumber"), early(monitor="val/odd")],
        [callback(f"{HERE}.NotANumber"), early(monitor="val/odd", check_finite=False)],
    ),
    "another callback": slow([callback(f"{HERE}.StopAt", step=2)], [callback(f"{HERE}.StopAt", step=90)]),
    "no longer there": ([callback(f"{HERE}.StopAt", step=2)], []),
}


@pytest.mark.slow
@pytest.mark.parametrize(("stopping", "others"), STOPS.values(), ids=STOPS)
def test_whatever_has_stopped_it_does_so_again_until_its_settings_are_others(orpo_lightning, caplog, stopping, others):
    def fit(callbacks, *options):
        Path("early.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
        caplog.clear()
        with caplog.at_level("INFO", logger="lightning.pytorch"):
            orpo_lightning(
                *("fit", *BASE, "--config=early.yaml", "--trainer.val_check_interval=2", "--trainer.max_epochs=2"),
                *options,
            )
        return step_of("run/checkpoints/last.ckpt")

    assert fit(stopping) == 2
    before = Path("run/metrics.csv").read_bytes()
    Path("run/model/config.json").unlink()
    # another callback beside it changes nothing about that
    assert fit([*stopping, callback("LearningRateMonitor")], "--ckpt_path=last") == 2
    assert "the run had stopped early, after 2 steps, and ends there; to go on, change or leave out" in caplog.text
    assert Path("run/metrics.csv").read_bytes() == before
    assert Path("run/model/config.json").exists()
    assert fit(others, "--ckpt_path=last") == 10
    assert "the run had stopped early, after 2 steps, and goes on" in caplog.text
