"""How what an optimizer keeps of a weight is shared out over processes that share the weight out."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from orpo_lightning.ranks import fail_together, from_all_ranks

SHARED = "shared"
"""Where the names of those tensors in the state of an optimizer are, beside it, that were shared out."""


def weights_of(optimizer: Optimizer) -> dict[int, Tensor]:
    """The weights by the numbers that they have in the state of their optimizer."""
    return dict(enumerate(weight for group in optimizer.param_groups for weight in group["params"]))


def part_of(value: Tensor, weight: Tensor | None) -> Tensor:
    """Of a whole tensor the part of this process: what it holds of the weight, and of its means over dimensions.

    Args:
        value: of a checkpoint.
        weight: that it is of, which may be shared out; None where it is of none.
    """
    placements = _placements(value.shape, weight)
    if isinstance(value, DTensor) or not isinstance(weight, DTensor) or placements is None:
        return value
    # on the device of the mesh, by its own rank alone
    return distribute_tensor(value.to(weight.device), weight.device_mesh, placements, src_data_rank=None)


def empty_part(like: Tensor, weight: Tensor | None) -> Tensor:
    """Room for the part of a tensor that is yet to be read.

    Args:
        like: one of its shape and dtype, without memory.
        weight: as in :func:`part_of`.

    Example:
        >>> empty_part(torch.empty(2, 3, device="meta"), torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """
    placements = _placements(like.shape, weight)
    if not isinstance(weight, DTensor) or placements is None:
        return torch.empty_like(like, device="cpu")
    # where the weight is, which is not the device of the mesh if it is offloaded
    part = distribute_tensor(like, weight.device_mesh, placements, src_data_rank=None)
    return torch.empty_like(part, device=weight.device)


def as_written(weight: Tensor | None, name: str, value: Tensor) -> Tensor:
    """A tensor of an optimizer's state as :func:`part_of` and :func:`empty_part` give it back; all processes call this.

    Args:
        weight: as in :func:`part_of`.
        name: in the state.
        value: what is there.

    Raises:
        ValueError: it is shared out, and neither a number, nor of the dimensions of its weight.
    """
    if not isinstance(value, DTensor):
        return value
    if value.ndim == 0:
        return value.full_tensor()
    placements = _placements(value.shape, weight)
    if placements is None:
        beside = "of no weight" if weight is None else f"beside a weight of {tuple(weight.shape)}"
        raise ValueError(
            f"a checkpoint cannot hold state.{name} of an optimizer, which is shared out and of shape "
            f"{tuple(value.shape)} {beside}; accepted: a number, or as many dimensions as the weight, each of its size "
            "or 1 (keepdim=True). Or take trainer.strategy ddp"
        )
    return value.redistribute(placements=placements)


def check_alike(kept: dict[str, Any]) -> None:
    """Insist that of what an optimizer keeps all processes have the same, but for what is shared out; all call this.

    A checkpoint holds it once, and all of them go on with that.

    Args:
        kept: its state and its groups.

    Raises:
        ValueError: something differs; names it.

    Example:
        >>> check_alike({"state": {0: {"step": torch.tensor(3.0)}}})
    """
    first, *others = from_all_ranks(fail_together(lambda: dict(_told(kept))))
    for other in others:
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if names:
            raise ValueError(
                f"a checkpoint cannot hold {names[0]} of an optimizer, which differs between the processes; accepted: "
                "what is the same in all of them, or a tensor that is shared out as its weight is (torch.zeros_like)"
            )


def _told(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """What is to be the same in all processes, by its name."""
    if isinstance(value, DTensor):
        yield name, f"shared out, {tuple(value.shape)}"
    elif type(value) in (Tensor, Parameter):
        content: Any = value.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        yield name, f"{value.dtype} {tuple(value.shape)} {zlib.crc32(content)}"
    elif isinstance(value, dict | list | tuple):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _told(each, f"{name}.{key}".removeprefix("."))
    elif value is None or isinstance(value, bool | int | float | str):
        yield name, repr(value)
    else:
        yield name, str(type(value))  # which no checkpoint holds


def _placements(shape: torch.Size, weight: Tensor | None) -> list[Placement] | None:
    """Along the dimensions of its weight where it has their sizes, and else whole; None is none like a weight."""
    if not isinstance(weight, DTensor) or len(shape) != weight.ndim:
        return None
    if any(own not in (1, whole) for own, whole in zip(shape, weight.shape, strict=True)):
        return None
    return [
        each if isinstance(each, Shard) and shape[each.dim] == weight.shape[each.dim] else Replicate()
        for each in weight.placements
    ]
