"""Optimizer and learning-rate schedule from the configuration, for every module."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from orpo_lightning.records import HALF_PRECISION

ScheduleName = Literal["constant", "linear", "cosine", "inverse_sqrt"]
DimensionsOf = Callable[[Tensor], int]


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer.

    Args:
        lr: peak learning rate.
        weight_decay: of matrices; norms and biases have none.
        algorithm: import path of the optimizer class; where the class has a fused form, that is used.
        options: further arguments of the class, such as ``betas``.
    """

    lr: float = 5e-6
    weight_decay: float = 0.0
    algorithm: str = "torch.optim.AdamW"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.lr >= 0:
            raise ValueError(f"model.optimizer.lr = {self.lr!r} is out of range; accepted: 0 or more")
        if not self.weight_decay >= 0:
            raise ValueError(
                f"model.optimizer.weight_decay = {self.weight_decay!r} is out of range; accepted: 0 or more"
            )
        own = {"params", "lr", "weight_decay"} & self.options.keys()
        if own:
            raise ValueError(f"model.optimizer.options: {', '.join(sorted(own))} is no further argument of the class")
        try:
            inspect.signature(self.optimizer_class).bind([], lr=self.lr, **self.options)
        except TypeError as error:
            known = [name for name in inspect.signature(self.optimizer_class).parameters if name != "params"]
            raise ValueError(
                f"model.optimizer.options: {self.optimizer_class.__name__} {error}; accepted: {', '.join(known)}"
            ) from error

    @property
    def optimizer_class(self) -> type[Optimizer]:
        """The class that `algorithm` names.

        Raises:
            ValueError: it is not the import path of an optimizer class.
        """
        module, _, name = self.algorithm.rpartition(".")
        try:
            cls = getattr(importlib.import_module(module), name, None) if module else None
        except ModuleNotFoundError:
            cls = None
        if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
            raise ValueError(
                f"model.optimizer.algorithm = {self.algorithm!r} is not an optimizer class that can be imported; "
                "an example: torch.optim.AdamW"
            )
        return cls


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the optimizer steps, as a factor of its peak.

    Args:
        name: shape after the warm-up. ``linear`` and ``cosine`` fall towards 0 at the end of training,
            ``inverse_sqrt`` falls as 1 / sqrt(step).
        warmup: below 1: share of all steps; 1 or more: number of steps. The rate rises linearly and reaches its peak
            at the last of them; its first value is not 0, so that no step is wasted.
    """

    name: ScheduleName = "cosine"
    warmup: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            raise ValueError(f"model.schedule.name = {self.name!r}; accepted: {', '.join(get_args(ScheduleName))}")
        if not 0 <= self.warmup < math.inf or (self.warmup >= 1 and self.warmup != int(self.warmup)):
            raise ValueError(
                f"model.schedule.warmup = {self.warmup!r}; accepted: a share of all steps in [0, 1), or a whole number"
            )


def build_optimizer(
    config: OptimizerConfig,
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    fused: bool = True,
    dim_of: DimensionsOf = Tensor.dim,
) -> Optimizer:
    """The optimizer over all parameters that require gradients, in two groups: with and without weight decay.

    Args:
        config: the optimizer.
        parameters: the parameters by name.
        fused: whether to use the fused form of the class, if it has one.
        dim_of: how many dimensions a parameter has.

    Raises:
        ValueError: the class does not take a value of the options.

    Example:
        >>> optimizer = build_optimizer(OptimizerConfig(weight_decay=0.1), nn.Linear(2, 2).named_parameters())
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [0.1, 0.0]
    """
    options = {**config.options, **form(config, fused=fused)}
    make: Callable[..., Optimizer] = config.optimizer_class
    try:
        return make(parameter_groups(config, parameters, dim_of), lr=config.lr, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model.optimizer.options = {dict(config.options)}: {error}") from error


def can_be_fused(weights: Iterable[nn.Parameter]) -> bool:
    """Whether any fused optimizer steps these weights.

    Not every one can where they are shared out over processes, and torch's SGD leaves half-precision ones on a CPU as
    they are.

    Example:
        >>> can_be_fused(nn.Linear(2, 2).parameters()), can_be_fused(nn.Linear(2, 2).bfloat16().parameters())
        (True, False)
    """
    return not any(
        isinstance(each, DTensor) or (each.dtype in HALF_PRECISION and each.device.type == "cpu") for each in weights
    )


def form(config: OptimizerConfig, *, fused: bool) -> dict[str, bool | None]:
    """The argument that chooses the fused form of the optimizer class, for a class that has one.

    Args:
        config: the optimizer; where its options choose, these count.
        fused: whether to use it.

    Example:
        >>> form(OptimizerConfig(), fused=True), form(OptimizerConfig(options={"foreach": True}), fused=True)
        ({'fused': True}, {'fused': None})
    """
    if "fused" not in inspect.signature(config.optimizer_class).parameters:
        return {}
    chosen = {"fused", "foreach"} & config.options.keys()
    return {"fused": config.options.get("fused") if chosen else fused or None}


def dimensions(strategy: object) -> DimensionsOf:
    """How many dimensions a parameter has.

    Args:
        strategy: that of the trainer; one that flattens parameters tells of those that they had.

    Example:
        >>> dimensions(strategy=None)(torch.ones(2, 3))
        2
    """
    dim_of: DimensionsOf = getattr(strategy, "dim_of", Tensor.dim)
    return dim_of


def parameter_groups(
    config: OptimizerConfig, parameters: Iterable[tuple[str, nn.Parameter]], dim_of: DimensionsOf = Tensor.dim
) -> list[dict[str, Any]]:
    """The parameters that require gradients, in up to two groups: with and without weight decay.

    Args:
        config: the optimizer.
        parameters: the parameters by name.
        dim_of: how many dimensions a parameter has.
    """
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            # norms have one dimension; the biases of experts have two
            (exempt if dim_of(parameter) <= 1 or name.endswith("bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def gradient_norm(parameters: Iterable[nn.Parameter], strategy: object) -> Tensor:
    """The norm of all gradients together.

    Args:
        parameters: those that may have one.
        strategy: that of the trainer; one that shares gradients out has a norm of its own.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> gradient_norm([weight], strategy=None)
        tensor(5.)
    """
    norm_of: Callable[[list[Tensor]], Tensor] = getattr(strategy, "gradient_norm", torch.nn.utils.get_total_norm)
    return norm_of([each.grad for each in parameters if each.grad is not None])


def build_schedule(config: ScheduleConfig, optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """The learning-rate scheduler, to be stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: rate_factor(config, total_steps, step))


def warmup_steps(config: ScheduleConfig, total_steps: int) -> int:
    """The steps over which the learning rate rises, of a run of so many.

    Example:
        >>> warmup_steps(ScheduleConfig(warmup=0.1), 32), warmup_steps(ScheduleConfig(warmup=50), 32)
        (4, 50)
    """
    return math.ceil(config.warmup * total_steps) if config.warmup < 1 else int(config.warmup)


def rate_factor(config: ScheduleConfig, total_steps: int, step: int) -> float:
    """The learning rate of a step as a factor of its peak.

    Args:
        config: the schedule.
        total_steps: optimizer steps of the run.
        step: which of them, from 0 on.

    Example:
        >>> [rate_factor(ScheduleConfig("linear", warmup=2), 4, step) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    warmup = warmup_steps(config, total_steps)
    if step < warmup:
        return (step + 1) / warmup
    return _SHAPES[config.name](step, warmup, total_steps)


def _constant(step: int, warmup: int, total: int) -> float:
    return 1.0


def _linear(step: int, warmup: int, total: int) -> float:
    return max(0.0, (total - step) / max(1, total - warmup))


def _cosine(step: int, warmup: int, total: int) -> float:
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return (1 + math.cos(math.pi * progress)) / 2


def _inverse_sqrt(step: int, warmup: int, total: int) -> float:
    timescale = warmup or 10_000
    return math.sqrt(timescale / (step - warmup + timescale))


_SHAPES: dict[ScheduleName, Callable[[int, int, int], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "inverse_sqrt": _inverse_sqrt,
}
