"""Runs of a real module on a saved model, with a reference in any mode."""

from __future__ import annotations

import pytest
import torch
from helpers import Run, run
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from orpo_lightning import DPO, IPO, LoraConfig, OptimizerConfig, PolicyConfig, PreferenceModule, ReferenceConfig
from orpo_lightning.testing import make_rows

TRAIN, VALIDATION = make_rows(22), make_rows(5, seed=9)
FULL, LORA = LoraConfig(), LoraConfig(r=4)
OBJECTIVES = {"dpo": lambda: DPO(beta=0.3), "ipo": lambda: IPO()}


def train(
    base,
    objective,
    mode="cached",
    lora=FULL,
    *,
    rows=TRAIN,
    name=None,
    dtype="float64",
    validation=VALIDATION,
    **options,
):
    module = {
        "policy": PolicyConfig(base, dtype=dtype, lora=lora),
        "reference": ReferenceConfig(name, mode=mode),
        # not Adam, which makes steps of the rounding in gradients that are 0
        "optimizer": OptimizerConfig(
            lr=0.5 if lora.is_used and isinstance(objective, DPO) else 0.05, algorithm="torch.optim.SGD"
        ),
    }
    return run(objective, rows, validation, module_class=PreferenceModule, module=module, **options)


def assert_same(found: Run, expected: Run, tolerance: float) -> None:
    assert [step for step, _ in found.history] == [step for step, _ in expected.history]
    for (_, values), (_, wanted) in zip(found.history, expected.history, strict=True):
        assert _comparable(values) == pytest.approx(_comparable(wanted), rel=tolerance, abs=tolerance)
    for gradient, wanted in zip(found.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=tolerance * wanted.abs().max().item())
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=tolerance * expected.weights.abs().max())


def _comparable(values: dict[str, float]) -> dict[str, float]:
    """What is more than rounding: before the first step both rewards of a pair are 0, and which is larger is chance."""
    tied = abs(values.get("train/rewards/margins", 1.0)) < 1e-12
    return {name: value for name, value in values.items() if not (tied and name == "train/rewards/accuracies")}


class StoppedError(Exception):
    """As if the process had been killed."""


class StopAt(Callback):
    """Ends the run before a micro-batch."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.left == 0:
            raise StoppedError
        self.left -= 1


def interrupted(base, tmp_path, **options):
    """The checkpoint of a run that was stopped after 4 of 6 steps."""
    saver = ModelCheckpoint(tmp_path / "run", "last", every_n_train_steps=1, enable_version_counter=False)
    with pytest.raises(StoppedError):
        train(base, DPO(), callbacks=[saver, StopAt(4)], enable_checkpointing=True, **options)
    return tmp_path / "run" / "last.ckpt"
