"""What the processes of a run tell each other."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed

_T = TypeVar("_T")


def place_among_ranks() -> tuple[int, int]:
    """The number of this process, and how many there are.

    Example:
        >>> place_among_ranks()
        (0, 1)
    """
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def from_all_ranks(value: _T) -> list[_T]:
    """The values of all processes, in their order; all of them have to call this.

    Args:
        value: that of this process.

    Example:
        >>> from_all_ranks("alone")
        ['alone']
    """
    if not torch.distributed.is_initialized():
        return [value]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered
