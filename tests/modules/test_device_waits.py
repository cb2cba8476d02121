"""How often a training step asks for a number that is on the device, seen on a CPU: there each asks alike."""

import pytest
import torch
from helpers import run
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from orpo_lightning import DPO, ORPO
from orpo_lightning.callbacks.throughput import Throughput
from orpo_lightning.modules.preference import PreferenceModule
from orpo_lightning.testing import make_rows

ASKING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
"""What item, bool, float and a mask as an index come to; tolist comes to none of them, and is counted by itself."""


class Asking(TorchDispatchMode, Callback):
    """Counts while micro-batches are trained on; data and loggers, which stay on the host, come between them."""

    def __init__(self, monkeypatch, extra=0):
        super().__init__()
        self.extra = extra
        self.times = 0
        self.of_steps = []
        self.monkeypatch = monkeypatch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.times += func in ASKING
        return func(*args, **(kwargs or {}))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        tolist = torch.Tensor.tolist

        def counted(tensor):
            self.times += 1
            return tolist(tensor)

        self.monkeypatch.setattr(torch.Tensor, "tolist", counted)
        self.__enter__()
        for _ in range(self.extra):
            bool(torch.ones(()))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.__exit__(None, None, None)
        self.monkeypatch.undo()
        if trainer.global_step > len(self.of_steps):
            self.of_steps.append(self.times)
            self.times = 0


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("objective", [ORPO(), DPO()], ids=["ORPO", "DPO"])
def test_a_step_asks_once_for_loss_and_norm_however_it_is_split(objective, accumulate, monkeypatch):
    asking = Asking(monkeypatch)
    run(objective, make_rows(22), callbacks=[Throughput(), asking], accumulate_grad_batches=accumulate)
    _, *later = asking.of_steps  # the first checks the layout
    assert later == [1] * 5


def test_what_is_logged_is_a_tensor_already(monkeypatch):
    log, logged = PreferenceModule.log, {}

    def seen(module, name, value, **options):
        logged[name] = value
        log(module, name, value, **options)

    monkeypatch.setattr(PreferenceModule, "log", seen)
    run(ORPO(), make_rows(22), callbacks=[Throughput()])
    assert {"train/loss", "train/grad_norm", "train/learning_rate", "time/step_s", "work/tflop"} <= set(logged)
    assert all(isinstance(value, torch.Tensor) for value in logged.values())  # all else is copied to the device


def test_what_asks_is_counted(monkeypatch):
    asking = Asking(monkeypatch, extra=1)
    run(ORPO(), make_rows(22), callbacks=[Throughput(), asking], accumulate_grad_batches=2)
    assert asking.of_steps[1:] == [3] * 5
