"""A run that had stopped early when it was interrupted."""

from pathlib import Path

import torch

BASE = [
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.limit=36"),
    *("--trainer.default_root_dir=run", "--model.optimizer.lr=1e-2"),
]


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


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
