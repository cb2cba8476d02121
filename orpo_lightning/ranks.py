"""What the processes of a run tell each other."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch.distributed

_P = ParamSpec("_P")
_T = TypeVar("_T")
_KINDS = (OSError, ImportError, ValueError, MemoryError, Exception)
"""Kinds of errors that any process can be told of: others may not be read back from what was sent."""


def place_among_ranks() -> tuple[int, int]:
    """The number of this process, and how many there are.

    Example:
        >>> place_among_ranks()
        (0, 1)
    """
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def this_machine() -> str:
    """What tells this machine from others: its name, and on Linux the run of its kernel, as names may be the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{platform.node()} {boot}"


def place_on_machine() -> tuple[int, int]:
    """The number of this process among those of its machine, and how many these are; all processes have to call this.

    Example:
        >>> place_on_machine()
        (0, 1)
    """
    machines, (rank, _) = from_all_ranks(this_machine()), place_among_ranks()
    return machines[:rank].count(machines[rank]), machines.count(machines[rank])


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


def fail_together(act: Callable[[], _T]) -> _T:
    """Do something that may fail in one process alone; then it fails in all, and none of them waits for another.

    All of them have to call this. Where they wait for each other meanwhile, that has to fail in all of them.

    Args:
        act: what this process does.

    Returns:
        What came of it in this process.

    Raises:
        Exception: what it has raised in the first process in which it failed, in all of them in the same words.

    Example:
        >>> fail_together(lambda: 3)
        3
    """
    own: Exception | None = None
    try:
        value = act()
    except Exception as error:  # whatever it is, the others have to hear of it
        own = error
    kind = next((kind for kind in _KINDS if isinstance(own, kind)), None)
    first = next((each for each in from_all_ranks(kind and kind(str(own))) if each is not None), None)
    if own is not None and str(own) == str(first):
        raise own
    if first is not None:
        raise first from own
    return value


def together(act: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have a function that all processes call fail in all of them where it fails in one, as :func:`fail_together` does.

    Args:
        act: the function, or a method; what the first process alone does among them.

    Example:
        >>> @together
        ... def three() -> int:
        ...     return 3
        >>> three()
        3
    """

    @functools.wraps(act)
    def acting(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return fail_together(lambda: act(*args, **kwargs))

    return acting
