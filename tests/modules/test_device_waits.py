"""How often a training step asks for a number that is on the device, seen on a CPU: there each asks alike.

What is asked for by ``to("cpu")`` is not seen: on a CPU that is what a copy to the device looks like. On a GPU,
``models/test_cuda.py`` makes an error of any wait.
"""

import pytest
import torch
from helpers import run, slow, slow_but
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from orpo_lightning import DPO, ORPO
from orpo_lightning.callbacks.health import Health
from orpo_lightning.callbacks.throughput import Throughput
from orpo_lightning.modules.preference import PreferenceModule
from orpo_lightning.testing import make_rows

ATEN = torch.ops.aten
ASKING = {
    ATEN._local_scalar_dense,  # what item, bool and float come to
    ATEN.nonzero,
    ATEN.masked_select,
    ATEN.equal,
    ATEN.allclose,
    ATEN._unique2,
    ATEN.unique_dim,
    ATEN.unique_consecutive,
}
INDEXING = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}
METHODS = ["tolist", "cpu", "numpy"]
"""Methods that come to none of the functions above."""


def asks(func, args, kwargs):
    packet = func.overloadpacket
    if packet in INDEXING:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if packet is ATEN.repeat_interleave:  # for the sum of the repeats
        return "output_size" not in kwargs
    return packet in ASKING


class Asking(TorchDispatchMode, Callback):
    """Counts while micro-batches are trained on; data and loggers, which stay on the host, come between them."""

    def __init__(self, monkeypatch, extra=lambda: None):
        super().__init__()
        self.extra = extra
        self.times = 0
        self.of_steps = []
        self.monkeypatch = monkeypatch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.times += asks(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for name in METHODS:
            self.monkeypatch.setattr(torch.Tensor, name, self.counted(getattr(torch.Tensor, name)))
        self.__enter__()
        self.extra()

    def counted(self, method):
        def call(*args, **kwargs):
            self.times += 1
            return method(*args, **kwargs)

        return call

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.__exit__(None, None, None)
        self.monkeypatch.undo()
        if trainer.global_step > len(self.of_steps):
            self.of_steps.append(self.times)
            self.times = 0


@pytest.mark.parametrize("accumulate", [slow(1), 2])
@pytest.mark.parametrize("objective", [ORPO(), DPO()], ids=["ORPO", "DPO"])
def test_a_step_asks_once_for_loss_and_norm_however_it_is_split(objective, accumulate, monkeypatch):
    asking = Asking(monkeypatch)
    run(objective, make_rows(22), callbacks=[Throughput(), Health(), asking], accumulate_grad_batches=accumulate)
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


ONES, MASK = torch.ones(3), torch.tensor([True, False, True])
QUESTIONS = {
    "bool": lambda: bool(torch.ones(())),
    "item": lambda: torch.ones(()).item(),
    "tolist": lambda: ONES.tolist(),
    "cpu": lambda: ONES.cpu(),
    "numpy": lambda: ONES.numpy(),
    "nonzero": lambda: ONES.nonzero(),
    "a mask as an index": lambda: ONES[MASK],
    "a mask that is written to": lambda: ONES.clone().__setitem__(MASK, torch.ones(2)),
    "masked_select": lambda: ONES.masked_select(MASK),
    "equal": lambda: torch.equal(ONES, ONES),
    "allclose": lambda: torch.allclose(ONES, ONES),
    "unique": lambda: ONES.unique(),
    "repeat_interleave": lambda: ONES.repeat_interleave(torch.tensor([1, 2, 1])),
}


@pytest.mark.parametrize("question", slow_but(["item", "nonzero", "repeat_interleave"], QUESTIONS))
def test_what_asks_is_counted(question, monkeypatch):
    asking = Asking(monkeypatch, QUESTIONS[question])
    run(ORPO(), make_rows(22), callbacks=[Throughput(), asking], accumulate_grad_batches=2)
    assert all(times >= 3 for times in asking.of_steps[1:])  # once for the step, and for each of its two micro-batches


def test_what_does_not_ask_is_not_counted(monkeypatch):
    def extra():
        ONES[torch.tensor([0, 2])]
        ONES.repeat_interleave(torch.tensor([1, 2, 1]), output_size=4)
        torch.where(MASK, ONES, 0)

    asking = Asking(monkeypatch, extra)
    run(ORPO(), make_rows(22), callbacks=[Throughput(), asking])
    assert asking.of_steps[1:] == [1] * 5
