"""FSDP2: weights, gradients and the optimizer's state are shared out over the processes, on CPUs and GPUs."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import Backend, BackendConfig, get_default_backend_for_device
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer

from orpo_lightning.memory import Shares
from orpo_lightning.models.adapters import untrained
from orpo_lightning.models.sharding import ShardedBuilder, sharded_models
from orpo_lightning.plain_data import map_tensors
from orpo_lightning.ranks import together
from orpo_lightning.strategies.checkpoints import CheckpointsOfAllRanks, check_weights
from orpo_lightning.strategies.parts import SHARED, as_written, check_alike, empty_part, part_of, weights_of

StateDictType = Literal["sharded", "full"]
Synchronization = Literal["step", "micro_batch"]
_GATHERED = {"bf16-mixed": torch.bfloat16}
"""Dtype of the weights of a layer while it computes, by precision; of others it is that of the model."""


class FSDP2Strategy(CheckpointsOfAllRanks, ModelParallelStrategy):
    """Shares weights, gradients and the optimizer's state out over all processes (``fully_shard``).

    A module asks it for its models by :meth:`build_model`. Each decoder layer is gathered while it computes, in bf16
    under ``bf16-mixed``; gradients are averaged in at least fp32.

    Args:
        state_dict_type: how checkpoints are written: ``sharded``, a folder that each process writes its part of, or
            ``full``, one file like that of a run in one process, which the first process gathers.
        cpu_offload: whether each process keeps its part of the weights and the optimizer's state in the memory of the
            host, and steps there (CUDA).
        synchronize: when gradients are averaged over the processes: once per optimizer ``step``, with gradients of all
            weights in each process while micro-batches add up; or after each ``micro_batch``, with more to send and
            less to hold.
        process_group_backend: of torch.distributed; None is nccl on GPUs and gloo on CPUs, and with ``cpu_offload`` on
            GPUs each for its own, ``cpu:gloo,cuda:nccl``: gradients and checkpoints are then gathered on the host.
        timeout: how long processes wait for each other.

    Raises:
        ValueError: a value is not one of those that are accepted.
    """

    def __init__(
        self,
        state_dict_type: StateDictType = "sharded",
        cpu_offload: bool = False,
        synchronize: Synchronization = "step",
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        for name, value, accepted in (
            ("state_dict_type", state_dict_type, get_args(StateDictType)),
            ("synchronize", synchronize, get_args(Synchronization)),
        ):
            if value not in accepted:
                raise ValueError(f"trainer.strategy.{name} = {value!r}; accepted: {', '.join(accepted)}")
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=state_dict_type == "sharded",
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self.cpu_offload = cpu_offload
        self.synchronize = synchronize
        self._asked_backend = process_group_backend  # Lightning puts that of the device there where none was asked for

    @property
    def shares(self) -> Shares:
        """What each process holds, of however many there are."""
        often = self.synchronize == "micro_batch"
        return Shares(each_micro_batch=often, offload=self.cpu_offload, gathers_as_computed=True)

    @property
    def average_often(self) -> str:
        """What is typed to have gradients averaged after each micro-batch, all else staying as it is."""
        name = type(self).__qualname__
        # the command line knows the arguments of a class that is named beside them, and forgets those from before
        words = [f"--trainer.strategy {name if type(self) is FSDP2Strategy else f'{type(self).__module__}.{name}'}"]
        words += [] if self.writes_folders else ["--trainer.strategy.state_dict_type full"]
        words += ["--trainer.strategy.cpu_offload true"] if self.cpu_offload else []
        backend, timeout = self._asked_backend, "null" if self._timeout is None else f"'{self._timeout}'"
        words += [] if backend is None else [f"--trainer.strategy.process_group_backend {backend}"]
        words += [] if self._timeout == default_pg_timeout else [f"--trainer.strategy.timeout {timeout}"]
        return " ".join([*words, "--trainer.strategy.synchronize micro_batch"])

    @property
    def writes_folders(self) -> bool:
        """Whether each process writes its part of a checkpoint."""
        return self._save_distributed_checkpoint

    def setup_environment(self) -> None:
        """Join the other processes; all of them share one model out.

        Raises:
            ValueError: a backend was asked for that has no way between the hosts, where parts are kept in their memory.
        """
        if self.cpu_offload:
            self._process_group_backend = _with_hosts(self._asked_backend, self.root_device)
        # its layers are not written to: no operation in place follows
        warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(.*\) returned a view tensor")
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def build_model(self) -> ShardedBuilder:
        """What loads a model of a module in parts."""
        precision = self.precision_plugin.precision
        return ShardedBuilder(
            mesh=self.device_mesh["data_parallel"],
            gathered_dtype=_GATHERED.get(precision),
            reduced_dtype=torch.float32 if "16" in precision else None,
            offload=self.cpu_offload,
        )

    def part_of(self, weight: Tensor) -> Tensor:
        """What this process holds of a weight: some of its rows."""
        part = distribute_tensor(weight, self.device_mesh["data_parallel"], [Shard(0)], src_data_rank=None)
        return part.cpu() if self.cpu_offload else part

    def model_to_device(self) -> None:
        """Move what is not there yet; weights that are kept in the memory of the host stay there."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(self.root_device)

    @contextmanager
    def block_backward_sync(self) -> Generator[None]:
        """Let the gradients of a micro-batch add up in each process; Lightning's strategy averages them at once."""
        assert self.model is not None
        models = sharded_models(self.model) if self.synchronize == "step" else []
        for model in models:
            model.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for model in models:
                model.set_requires_gradient_sync(True, recurse=False)

    def gradient_norm(self, gradients: list[Tensor]) -> Tensor:
        """The norm of gradients that are shared out, that of all parts together; all processes call this."""
        norm = torch.nn.utils.get_total_norm(gradients)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights that are trained; the others are neither gathered nor written."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        for name in untrained(self.lightning_module, state):
            del state[name]
        return self._gathered(state)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an optimizer, by the numbers of the parameters, as of a run in one process.

        Raises:
            ValueError: processes keep something else each, or what is shared out in another way than its weight.
        """
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        state, weights = optimizer.state_dict(), weights_of(optimizer)
        check_alike(state)
        shared: list[str] = []

        def write(weight: Tensor | None, name: str, value: Tensor) -> Tensor:
            if isinstance(value, DTensor):
                shared.append(name)
            return as_written(weight, name, value)

        kept = {i: map_tensors(each, partial(write, weights.get(i)), str(i)) for i, each in state["state"].items()}
        return {**state, "state": self._gathered(kept), SHARED: shared}

    def _gathered(self, state: dict[Any, Any]) -> dict[Any, Any]:
        if self.writes_folders:
            return state

        def gather(name: str, value: Tensor) -> Tensor | None:
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            return whole.cpu() if self.is_global_zero else None

        written: dict[Any, Any] = map_tensors(state, gather)  # one by one: of one weight alone there are two copies
        return written if self.is_global_zero else {}

    @together
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Put weights into the model, in each process those of its part."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        saved: Iterable[str] = checkpoint["state_dict"] if self._opened is None else self._opened.weights
        trained = check_weights(own, untrained(self.lightning_module, own), saved)
        if self._opened is not None:
            self._opened.load_weights({name: own[name] for name in trained})
            return
        for name in trained:
            own[name].copy_(part_of(checkpoint["state_dict"][name], own[name]))

    @together
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Put the states of the optimizers into theirs, in each process those of its part."""
        home = torch.device("cpu") if self.cpu_offload else self.root_device
        for number, (optimizer, saved) in enumerate(zip(self.optimizers, checkpoint["optimizer_states"], strict=True)):
            weights = weights_of(optimizer)
            found = self._state_of(number, saved, weights)
            for i in found.keys() - weights.keys():  # what is of a weight goes where that is when it is loaded
                found[i] = map_tensors(found[i], lambda _, value: value.to(home))
            optimizer.load_state_dict({**saved, "state": found})
        self._opened = None

    def _state_of(self, number: int, saved: Mapping[str, Any], weights: Mapping[Any, Tensor]) -> dict[Any, Any]:
        """The state of an optimizer, of what is shared out like a weight the part of this process."""
        shared = set(saved[SHARED]) if SHARED in saved else None  # where it was not, a tensor like a weight is to be

        def like_which(i: Any, name: str) -> Tensor | None:
            return weights.get(i) if shared is None or name in shared else None

        if self._opened is not None:
            return self._opened.optimizer_state(
                number, saved["state"], lambda i, name, like: empty_part(like, like_which(i, name))
            )

        def part(i: Any, name: str, value: Tensor) -> Tensor:
            return part_of(value, like_which(i, name))

        return {i: map_tensors(each, partial(part, i), str(i)) for i, each in saved["state"].items()}


def _with_hosts(asked: str | None, device: torch.device) -> str:
    """The backend of processes that send each other what is on a device and what is in the memory of the host."""
    own = get_default_backend_for_device(device)
    if asked is None:
        return own if device.type == "cpu" else f"cpu:gloo,{device.type}:{own}"
    if "cpu" not in BackendConfig(Backend(asked)).get_device_backend_map():
        raise ValueError(
            f"trainer.strategy.process_group_backend = {asked!r} sends nothing from the memory of the host, where "
            f"cpu_offload keeps gradients; accepted: null, or one for CPUs too, such as cpu:gloo,{device.type}:{own}"
        )
    return asked
