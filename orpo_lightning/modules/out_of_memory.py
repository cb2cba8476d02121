"""A step that runs out of memory says what it held, and which settings would fit."""

from __future__ import annotations

import functools
import itertools
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from lightning import LightningModule
from torch import Tensor

from orpo_lightning.device_memory import memory_of
from orpo_lightning.memory import in_gib
from orpo_lightning.modules.estimate import Estimate, Remedy, Setup, sharing_of, that_fit, untried
from orpo_lightning.packing import PackedBatch
from orpo_lightning.plain_data import map_tensors

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")
"""In the errors of torch that are of no class of their own."""
_REMEDIES = 3
_Step = TypeVar("_Step", bound=Callable[..., Any])
_batches: WeakKeyDictionary[LightningModule, PackedBatch] = WeakKeyDictionary()
"""The last micro-batch of each module."""
_room: WeakKeyDictionary[LightningModule, int | None] = WeakKeyDictionary()
"""Bytes that the process had for each module before its first micro-batch, its weights included; None: unknown."""


class StepOutOfMemoryError(MemoryError):
    """A step needed more memory than there was."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a device or of the host, and nothing has been said of it yet.

    Example:
        >>> is_out_of_memory(torch.OutOfMemoryError()), is_out_of_memory(RuntimeError("shapes do not match"))
        (True, False)
    """
    if isinstance(error, StepOutOfMemoryError):
        return False
    by_words = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    return by_words or isinstance(error, torch.OutOfMemoryError | MemoryError)


def explained(step: _Step) -> _Step:
    """Have a module's forward pass on a batch say what it held where memory runs out."""

    @functools.wraps(step)
    def wrapped(module: Any, batch: PackedBatch, *others: Any) -> Any:
        if module not in _room:
            _room[module] = _capacity(module)
        _batches[module] = batch
        where = "in the forward pass of step {}" if module.training else "while it was measured, after {} steps"
        with explaining(module, where):
            return step(module, batch, *others)

    return wrapped  # type: ignore[return-value]  # it has the signature of the step


class ExplainsMemory:
    """A module whose backward pass and optimizer step say what they held where memory runs out."""

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of a micro-batch."""
        with explaining(self, "in the backward pass of step {}"):
            super().backward(loss, *args, **kwargs)  # type: ignore[misc]  # of the module that it is mixed into

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step."""
        with explaining(self, "while the optimizer took step {}"):
            super().optimizer_step(*args, **kwargs)  # type: ignore[misc]  # of that module, too


@contextmanager
def explaining(module: Any, where: str) -> Iterator[None]:
    """Say what a step held where memory runs out.

    Args:
        module: a preference module.
        where: in the run; ``{}`` is the number of the step.

    Raises:
        StepOutOfMemoryError: it has run out; chained to the error that said so.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or module not in _batches:
            raise
        # what the frames of the step hold would be in the way of what follows
        traceback.clear_frames(error.__traceback__)
        message = _message(module, _batches[module], where, error)
        raise StepOutOfMemoryError(message) from error


def _message(module: Any, batch: PackedBatch, where: str, error: Exception) -> str:
    trainer = module.trainer
    asked = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
    longest = max(range(len(batch)), key=lambda i: batch.groups[i].longest)
    processes = "" if trainer.world_size == 1 else f", {trainer.world_size} processes"
    strategy = type(trainer.strategy).__name__
    return (
        f"memory ran out {where.format(trainer.global_step)}"
        f"{f', which asked for {asked[1]}' if asked else ''}. The micro-batch had {batch.num_tokens:,} tokens in "
        f"{len(batch):,} rows; the longest of these, {batch.row_ids[longest]}, has {batch.groups[longest].longest:,}. "
        f"Weights in {module.policy_config.dtype}, precision {trainer.precision}, "
        f"{module.optimizer_config.optimizer_class.__name__}, {strategy} on {trainer.strategy.root_device.type}"
        f"{processes}. {_advice(module, batch)}"
    )


def _advice(module: Any, batch: PackedBatch) -> str:
    capacity = _room[module]
    untold: list[str] = []
    try:
        setup = setup_of(module, batch)
        untold = [*itertools.islice(untried(setup, batch), _REMEDIES)]
        found = Estimate.of(setup, batch)
        if capacity is None:
            return f"By the estimate its steps need {in_gib(found.need.total)} beside the program"
        need = f"By the estimate its steps need {in_gib(found.need.total)} beside the program, of {in_gib(capacity)}"
        if found.need.total <= 0.9 * capacity:
            return f"{need}: what is beyond that is not the model's, but of a loss, a callback or another program"
        fitting = [*itertools.islice(that_fit(found, capacity), _REMEDIES)]
    except Exception as failure:  # whatever stands in the way of advice, the error is the one that is told
        reason = re.split(r"[;\n]", str(failure))[0] or type(failure).__name__
        others = "; or ".join([*untold, "a lower data.max_length"])
        return f"What would fit cannot be told ({reason}): try {others}"
    if not fitting:
        return f"{need}. No setting alone or together with others would fit: it takes a smaller model, or more devices"
    return f"{need}. What would fit: {'; or '.join(map(_named, fitting))}"


def _named(remedy: Remedy) -> str:
    return f"{remedy.setting} ({in_gib(remedy.estimate.need.total)}, {remedy.effect})"


def setup_of(module: Any, batch: PackedBatch) -> Setup:
    """What the memory of a run depends on, of a module that has a trainer.

    Args:
        module: a preference module, its model loaded.
        batch: a micro-batch that has been scored, or was about to be.
    """
    trainer, objective = module.trainer, module.objective
    slots = trainer.world_size * trainer.accumulate_grad_batches
    return Setup(
        policy=module.policy_config,
        reference=module.reference_config if objective.needs_reference else None,
        optimizer=module.optimizer_config,
        global_batch_size=getattr(trainer.datamodule, "global_batch_size", len(batch) * slots),
        layout="auto" if module.policy.shares_prompts(batch) else "padded",
        prompt_logps=objective.needs_prompt_logps,
        splits=not objective.couples_pairs,
        precision=str(trainer.precision),
        device_type=trainer.strategy.root_device.type,
        sharing=sharing_of(trainer.strategy, trainer.world_size),
        nodes=trainer.num_nodes,
        accumulate=trainer.accumulate_grad_batches,
        average_often=getattr(trainer.strategy, "average_often", None),
    )


def _held(module: Any, device_type: str) -> int:
    """Bytes of what stays from step to step and is on a device now."""
    weights = [*module.parameters(), *module.buffers()]
    kept: list[Tensor] = []
    for optimizer in module.trainer.optimizers:
        for state in optimizer.state.values():
            map_tensors(state, lambda _, tensor: kept.append(tensor))
    tensors = [
        *weights,
        *(each.grad for each in weights if each.is_leaf and each.grad is not None),
        *kept,
    ]
    parts = [each.to_local() if hasattr(each, "to_local") else each for each in tensors]
    return sum({id(each): each.numel() * each.itemsize for each in parts if each.device.type == device_type}.values())


def _capacity(module: Any) -> int | None:
    """Bytes that the process has for a model, its weights included; None where the system does not tell."""
    device = module.trainer.strategy.root_device
    memory = memory_of(device, int(module.trainer.num_devices))
    return None if memory is None or memory.free is None else memory.free + _held(module, device.type)
