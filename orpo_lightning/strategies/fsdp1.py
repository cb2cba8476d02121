"""FSDP1: the older way to share a model out over GPUs, through Lightning's strategy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision.fsdp import FSDPPrecision
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecision, ShardingStrategy
from torch.distributed.fsdp.wrap import CustomPolicy
from torch.optim import Optimizer

from orpo_lightning.memory import Shares
from orpo_lightning.models.adapters import untrained
from orpo_lightning.models.building import Model, build_whole, refuse_four_bits
from orpo_lightning.models.loading import PolicyConfig
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.plain_data import map_tensors
from orpo_lightning.ranks import fail_together, from_all_ranks
from orpo_lightning.strategies.checkpoints import CheckpointsOfAllRanks, check_weights
from orpo_lightning.strategies.flat_units import units_of
from orpo_lightning.strategies.parts import check_alike, empty_part, weights_of


class FSDP1Strategy(CheckpointsOfAllRanks, FSDPStrategy):
    """Shares weights, gradients and the optimizer's state out over GPUs (``FullyShardedDataParallel``).

    The unit that is gathered is the decoder layer of the model. Unlike Lightning's strategy it clips gradients by norm,
    and averages them in fp32. Each process loads the model whole before it is shared out: see
    :class:`~orpo_lightning.strategies.FSDP2Strategy` for models that are too large for that. It takes the arguments of
    Lightning's :class:`~lightning.pytorch.strategies.FSDPStrategy`.
    """

    @property
    def mixed_precision_config(self) -> MixedPrecision | None:
        """The dtypes of gathered weights and gradients: what flows between layers stays as on one device."""
        if self.mixed_precision is not None:
            return self.mixed_precision
        return MixedPrecision(reduce_dtype=torch.float32) if "16" in self.precision_plugin.precision else None

    def setup_environment(self) -> None:
        """Join the other processes.

        Raises:
            ValueError: the strategy keeps copies of parts or wholes, of which its norm of gradients would count each.
        """
        if self.sharding_strategy is not ShardingStrategy.FULL_SHARD:
            raise ValueError(
                f"trainer.strategy.sharding_strategy = {self.sharding_strategy.name}; accepted: FULL_SHARD. For copies "
                "in all processes take trainer.strategy ddp"
            )
        if self.precision_plugin.precision == "32-true":
            self.precision_plugin = _AsLoaded("32-true")
        super().setup_environment()

    def build_model(self, config: PolicyConfig, wrap: Callable[[Any], Model]) -> Model:
        """Load a model whole, to be shared out later.

        Raises:
            ValueError: it is one that this strategy cannot train.
        """
        refuse_four_bits(config)
        if config.lora.is_used and self.world_size == 1:  # torch loses embeddings that are not trained
            raise ValueError(
                "trainer.strategy fsdp trains no adapter in one process; accepted: more devices, trainer.strategy auto "
                "or fsdp2, or model.policy.lora.r 0"
            )
        return build_whole(config, wrap)

    def _setup_model(self, model: nn.Module) -> nn.Module:
        nets = [each.net for each in model.modules() if isinstance(each, LogpModel)]
        units = {unit for net in nets for unit in units_of(net)}
        self.kwargs.setdefault("auto_wrap_policy", CustomPolicy(units.__contains__))
        self._shapes: dict[Tensor, torch.Size] = {weight: weight.shape for weight in model.parameters()}
        # an adapter in each layer, of which the page tells what it takes
        warnings.filterwarnings("ignore", r"(?s).* has both parameters with requires_grad=True and False")
        return super()._setup_model(model)

    def part_of(self, weight: Tensor) -> Tensor:
        """What this process holds of a weight: some of its numbers, without a shape."""
        return weight.flatten().tensor_split(self.world_size)[self.global_rank].to(self.root_device)

    def dim_of(self, weight: Tensor) -> int:
        """The dimensions that a weight had before its part became flat: which of them decay is told by these."""
        return len(self._shapes[weight])

    @contextmanager
    def block_backward_sync(self) -> Generator[None]:
        """Let the gradients of a micro-batch add up in each process."""
        with self.model.no_sync():  # type: ignore[union-attr,operator]  # it is wrapped by now
            yield

    def gradient_norm(self, gradients: list[Tensor]) -> Tensor:
        """The norm of gradients that are shared out, that of all parts together; all processes call this."""
        own = torch.nn.utils.get_total_norm([each for each in gradients if each.numel()])
        squared = own.to(self.root_device, torch.promote_types(own.dtype, torch.float32)).square()
        torch.distributed.all_reduce(squared)
        return squared.sqrt()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights that are trained."""
        assert self.model is not None
        return get_model_state_dict(self.model, options=self._options)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an optimizer, by the numbers of the parameters, as of a run in one process.

        Raises:
            ValueError: torch cannot take it apart by weights, or processes keep something else each.
        """
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        shapes = {i: weight.shape for i, weight in weights_of(optimizer).items()}
        fail_together(lambda: _check_flat(optimizer.state_dict()["state"], shapes, "a checkpoint cannot hold"))
        check_alike(_but_parts(optimizer))
        assert self.model is not None
        state: dict[str, Any] = get_optimizer_state_dict(self.model, optimizer, options=self._options)
        numbers = _numbers(state)
        groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
        return {"state": {numbers[name]: value for name, value in state["state"].items()}, "param_groups": groups}

    @property
    def shares(self) -> Shares:
        """What each process holds, of however many there are."""
        return Shares(offload=bool(self.cpu_offload is not None and self.cpu_offload.offload_params))

    @property
    def writes_folders(self) -> bool:
        """Whether each process writes its part of a checkpoint."""
        return self._state_dict_type == "sharded"

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Put weights into the model, in each process those of its part."""
        assert self.model is not None
        assert self.lightning_module is not None
        own = get_model_state_dict(self.model)
        frozen = own.keys() - get_model_state_dict(self.model, options=StateDictOptions(ignore_frozen_params=True))
        saved: Mapping[str, Any] = checkpoint["state_dict"] if self._opened is None else self._opened.weights
        # torch itself takes what is missing from the model, and does not tell of it
        trained = check_weights(own, {*frozen, *untrained(self.lightning_module, own)}, saved)
        if self._opened is None:
            weights = {name: saved[name] for name in trained}
        else:
            weights = {name: own[name] for name in trained}
            fail_together(partial(self._opened.load_weights, weights))
        set_model_state_dict(self.model, weights, options=self._of_what_is_read)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Put the states of the optimizers into theirs, in each process those of its part.

        Raises:
            ValueError: torch cannot put one of them together by weights.
        """
        assert self.model is not None
        own: dict[str, Any] = get_model_state_dict(self.model)
        for number, (optimizer, saved) in enumerate(zip(self.optimizers, checkpoint["optimizer_states"], strict=True)):
            shapes = {i: self._shapes[weight] for i, weight in weights_of(optimizer).items()}
            _check_flat(saved["state"], shapes, "a run cannot go on with")
            names = {i: name for name, i in _numbers(get_optimizer_state_dict(self.model, optimizer)).items()}
            weights = {i: own[name] for i, name in names.items()}
            found = fail_together(partial(self._state_of, number, saved["state"], weights))
            groups = [{**group, "params": [names[i] for i in group["params"]]} for group in saved["param_groups"]]
            state: dict[str, Any] = {
                "state": {names[i]: value for i, value in found.items()},
                "param_groups": groups,
            }
            set_optimizer_state_dict(self.model, optimizer, state, options=self._of_what_is_read)
        self._opened = None

    def _state_of(self, number: int, saved: dict[Any, Any], weights: Mapping[Any, Tensor]) -> dict[Any, Any]:
        if self._opened is None:
            return saved
        return self._opened.optimizer_state(number, saved, lambda i, _, like: empty_part(like, weights.get(i)))

    @property
    def _of_what_is_read(self) -> StateDictOptions:
        """Whether what has been read is whole, or the part of this process."""
        return StateDictOptions(full_state_dict=self._opened is None, strict=False)

    @property
    def _options(self) -> StateDictOptions:
        # what is there already would not be copied, and is given back when it has been gathered
        offload = self.root_device.type != "cpu"
        return StateDictOptions(full_state_dict=not self.writes_folders, cpu_offload=offload, ignore_frozen_params=True)


class _AsLoaded(FSDPPrecision):
    """Leaves weights in their dtype, as every other strategy does; Lightning's would make fp32 of all."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        return module


def _but_parts(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer keeps beside parts of weights; of a weight only where each process has a part of it."""
    state = optimizer.state_dict()
    own = {i for i, weight in weights_of(optimizer).items() if weight.numel() and i in state["state"]}
    everywhere = own.intersection(*from_all_ranks(own))
    numbers = {
        i: {key: value for key, value in state["state"][i].items() if not isinstance(value, Tensor) or not value.ndim}
        for i in sorted(everywhere)
    }
    return {**state, "state": numbers}


def _check_flat(kept: Mapping[Any, Any], shapes: Mapping[Any, torch.Size], act: str) -> None:
    """Insist that torch can take the state of an optimizer apart by weights, or put it together."""
    for of, state in kept.items():
        if of not in shapes:
            raise ValueError(
                f"under FSDP1 {act} {of!r} of an optimizer, which is of no weight; accepted: what is of one. Or take "
                "trainer.strategy fsdp2"
            )
        dtypes = {each.dtype for each in state.values() if isinstance(each, Tensor) and each.ndim}
        for key, value in state.items():
            found: list[torch.Size] = []
            map_tensors(value, lambda _, tensor: found.append(tensor.shape))  # noqa: B023  # it is called here
            is_flat = isinstance(value, Tensor) and value.shape in (shapes[of], ())
            if (found and not is_flat) or len(dtypes) > 1:
                raise ValueError(
                    f"under FSDP1 {act} {key} of an optimizer; accepted: tensors of the size of their weight and of "
                    "one dtype, numbers and text. Or take trainer.strategy fsdp2"
                )


def _numbers(state: Mapping[str, Any]) -> dict[str, int]:
    """The numbers that an optimizer gives to its parameters, by their names."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    return {name: number for number, name in enumerate(names)}
