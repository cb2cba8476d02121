"""What a checkpoint may hold: tensors and plain data, all of which is read again without any code being run."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

_TENSORS = (Tensor, Parameter, DTensor)
"""Those that are read again by their kind; of others the numbers may be, but not what they stand for."""
_PLAIN = (type(None), bool, int, float, str)
_CONTAINERS = (dict, OrderedDict, list, tuple)


def map_tensors(value: Any, act: Callable[[str, Tensor], Any], name: str = "") -> Any:
    """A copy of a value with other things in the places of its tensors, in dictionaries, lists and tuples of any depth.

    Args:
        value: anything; dictionaries of other kinds become plain ones, as torch makes them of an optimizer's state.
        act: what to put in the place of a tensor, by its name, which is that of the value and the keys on the way.
        name: of the value.

    Example:
        >>> map_tensors({"step": 3, "history": [torch.zeros(2), None]}, lambda name, tensor: name, "0")
        {'step': 3, 'history': ['0.history.0', None]}
    """
    if isinstance(value, Tensor):
        return act(name, value)
    if isinstance(value, dict):
        return {key: map_tensors(each, act, f"{name}.{key}") for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map_tensors(each, act, f"{name}.{i}") for i, each in enumerate(value))
    return value


def check_plain(checkpoint: Any) -> None:
    """Insist that a checkpoint can be read again as tensors and plain data alone, before it is written.

    Args:
        checkpoint: of the trainer.

    Raises:
        ValueError: it holds something else; names it.

    Example:
        >>> check_plain({"optimizer_states": [{"state": {0: {"clock": iter(())}}}]})
        Traceback (most recent call last):
        ...
        ValueError: a checkpoint cannot hold optimizer_states.0.state.0.clock, a builtins.tuple_iterator: reading it ...
    """
    for name, value in _others(checkpoint, ""):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise ValueError(
            f"a checkpoint cannot hold {name}, a {kind}: reading it again could run code; accepted: tensors, numbers, "
            "text, None, and lists, tuples and dictionaries of these. Keep it as one of these"
        )


def _others(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The names and values of what is neither a tensor nor plain."""
    if type(value) in _PLAIN or type(value) in _TENSORS:
        return
    if type(value) not in _CONTAINERS:
        if not _is_read_again(value):
            yield name, value
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        inner = f"{name}.{key}".removeprefix(".")
        yield from _others(key, f"the key {inner}")
        yield from _others(each, inner)


def _is_read_again(value: Any) -> bool:
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # pickle raises anything, and so do the classes that it asks
        return False
    return True
