"""Short runs of the tiny model on made-up rows, with everything that was logged and the weights at the end."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import FSDPStrategy
from ports import free_port
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from orpo_lightning import (
    Objective,
    ObjectiveOutput,
    OptimizerConfig,
    PreferenceDataModule,
    PreferenceModule,
    ScheduleConfig,
)
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.reference import FrozenReference
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.ranks import from_all_ranks, place_among_ranks
from orpo_lightning.records import TokenizedRow
from orpo_lightning.testing import make_rows

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class TinyModule(PreferenceModule):
    """A preference module around a tiny model; the reference has other weights, so that no term is trivially 0."""

    def __init__(self, *args: Any, shape: str = "opt", dtype: torch.dtype = torch.float64, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shape = shape
        self.tiny_dtype = dtype

    def configure_model(self) -> None:
        if self.policy is None:
            self.policy = LogpModel(tiny_model(self.shape, self.tiny_dtype), self.layout)
        if self.reference is None and self.objective.needs_reference:
            self.reference = FrozenReference(tiny_model(self.shape, self.tiny_dtype, seed=1), self.layout)

    def _check_reference(self, *args: Any) -> None:
        pass


class RowsData(PreferenceDataModule):
    """A data module over given rows."""

    def __init__(self, rows: list[TokenizedRow], validation: list[TokenizedRow] | None = None, **kwargs: Any) -> None:
        super().__init__(val="given" if validation else None, **kwargs)
        self.given = {"train": rows, "validation": validation or []}

    def setup(self, stage: str) -> None:
        self._rows = self.given


class NamedSets(RowsData):
    """Two validation sets."""

    val_names = ("easy", "hard")

    def setup(self, stage: str) -> None:
        self._rows = {
            "train": make_rows(22),
            "validation/easy": make_rows(5, seed=9),
            "validation/hard": make_rows(3, seed=8),
        }


class Recorder(Logger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[tuple[int, dict[str, float]]] = []

    name = "recorder"
    version = 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.history.append((step, {name: value for name, value in metrics.items() if name != "epoch"}))


class GradientNorms(Callback):
    """Keeps the gradient of every step, as one vector."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: PreferenceModule, optimizer: Any) -> None:
        frozen = any(not p.requires_grad for p in pl_module.parameters())
        if frozen and isinstance(trainer.strategy, FSDPStrategy):
            return  # of what is flat torch gathers no gradient where another process has frozen weights alone
        with _gathered(trainer, with_grads=True):
            parameters = [p for p in pl_module.policy.parameters() if p.requires_grad]
            self.gradients.append(torch.cat([_whole(p.grad).flatten().double() for p in parameters]).clone())


class Exploding(Objective):
    """A loss that is NaN for the pairs whose chosen response has a given number of tokens."""

    def __init__(self, tokens: int = 3, in_gradient: bool = False) -> None:
        self.tokens = tokens
        self.in_gradient = in_gradient

    def __call__(self, policy, reference=None):
        bad = policy.chosen_tokens == self.tokens
        # sqrt has a finite value and an infinite slope at 0
        zero = policy.chosen - policy.chosen.detach()
        poison = zero.clamp_min(0).sqrt() if self.in_gradient else torch.full_like(policy.chosen, torch.nan)
        return ObjectiveOutput(-policy.chosen_mean + torch.where(bad, poison, 0.0))


@dataclass
class Run:
    """What came of a run."""

    history: list[tuple[int, dict[str, float]]]
    gradients: list[torch.Tensor]
    weights: torch.Tensor
    trainer: Trainer = field(repr=False)
    module: PreferenceModule = field(repr=False)


def run(
    objective: Objective,
    rows: list[TokenizedRow] | None = None,
    validation: list[TokenizedRow] | None = None,
    *,
    module: dict[str, Any] | None = None,
    module_class: type[PreferenceModule] = TinyModule,
    data: dict[str, Any] | None = None,
    ckpt_path: Any = None,
    **trainer_options: Any,
) -> Run:
    """Train a tiny model with SGD and record everything."""
    torch.manual_seed(0)
    recorder, norms = Recorder(), GradientNorms()
    options = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": recorder,
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        **trainer_options,
    }
    options["callbacks"] = [norms, *options.get("callbacks", [])]
    trainer = Trainer(**options)
    preference_module = module_class(
        objective,
        **{
            "optimizer": OptimizerConfig(lr=0.05, algorithm="torch.optim.SGD"),
            "schedule": ScheduleConfig("linear", warmup=1),
            **(module or {}),
        },
    )
    datamodule = RowsData(rows or make_rows(22), validation, **{"global_batch_size": 8, **(data or {})})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")
        trainer.fit(preference_module, datamodule, ckpt_path=ckpt_path)
    with _gathered(trainer):
        weights = torch.cat([_whole(p.detach()).flatten().double() for p in preference_module.policy.parameters()])
    return Run(recorder.history, norms.gradients, weights, trainer, preference_module)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be shared out over processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gathered(trainer: Trainer, with_grads: bool = False) -> AbstractContextManager[None]:
    """All of the weights that FSDP1 shares out, as they were."""
    wrapped = trainer.strategy.model
    if not isinstance(wrapped, FullyShardedDataParallel):
        return nullcontext()
    return FullyShardedDataParallel.summon_full_params(wrapped, writeback=False, with_grads=with_grads)


@contextmanager
def fsdp1_on_cpus() -> Iterator[None]:
    """FSDP1 runs on CPUs where it is told that they are the device, which Lightning does of GPUs alone."""
    wrap = FullyShardedDataParallel.__init__

    def told(*args: Any, **options: Any) -> None:
        wrap(*args, **{**options, "device_id": torch.device("cpu")})

    with patch.object(FullyShardedDataParallel, "__init__", told):
        yield


def with_random_trained_weights(net: torch.nn.Module) -> torch.nn.Module:
    """The model with random numbers where it is trained: an adapter starts at zero, and would change nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return net


def slow(*values: Any) -> Any:
    """The values of a test that the slow suite alone runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


def slow_but(fast: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases of a test, of which the fast suite runs those that are, or begin with, one of these."""
    kept = list(fast)
    return [case if (case[0] if isinstance(case, tuple) else case) in kept else _slow(case) for case in cases]


def one_in(number: int, cases: Iterable[Any]) -> list[Any]:
    """The cases of a long table, of which the fast suite runs one in so many."""
    return [case if i % number == 0 else _slow(case) for i, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    return slow(*case) if isinstance(case, tuple) else slow(case)


def environment_with_tests() -> dict[str, str]:
    """The environment of a process that imports from the folder of the tests."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    known = {name: value for name, value in os.environ.items() if name != "ORPO_LIGHTNING_RUN"}  # of another run
    return {**known, "PYTHONPATH": path}


def run_on_two_ranks(script: str, folder: Path, **environment: str) -> None:
    """Run ``main`` of a module of the tests on two ranks (gloo), which writes into a folder; as torchrun does."""
    told = {
        **{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())},
    }
    with tempfile.TemporaryFile("w+") as said:
        both = [sys.executable, str(Path(__file__).with_name("two_ranks.py")), script, str(folder)]
        environment = {**environment_with_tests(), "OMP_NUM_THREADS": "1", **told, **environment}
        ranks = subprocess.Popen(both, env=environment, stderr=said, start_new_session=True)
        try:
            code = ranks.wait(timeout=500)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(ranks.pid, signal.SIGKILL)
        said.seek(0)
        assert code == 0, said.read()


def leave_together() -> None:
    """End the process group of the ranks: one whose peer has gone while its own connections are open may abort."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


FULL = "No space left on device"


@contextmanager
def failing(owner: Any, name: str, of_rank: int = 0, only: Callable[..., bool] = lambda *args: True) -> Iterator[None]:
    """Where a call fails in one of the processes, as on a full disk."""
    real = getattr(owner, name)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if place_among_ranks()[0] == of_rank and only(*args):
            raise OSError(errno.ENOSPC, FULL, name)
        return real(*args, **kwargs)

    with patch.object(owner, name, fail):
        yield


def attempt(said: dict[str, str], name: str, act: Callable[[], object]) -> None:
    """Note what a process says of something that fails, all of which call this."""
    try:
        act()
    except Exception as error:
        said[name] = f"{type(error).__name__}: {error}"
    assert from_all_ranks(name) == [name, name]  # neither is amid something else
