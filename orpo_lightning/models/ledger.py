"""What tensors hold while operations run on them, written down as it comes and goes.

The operations are those of a model without weights (fake tensors, which have a shape, a dtype and no memory): what
they would hold is a property of the code that runs, and of no formula beside it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from orpo_lightning.memory import Moment

_KINDS = Moment._fields[1:]
_UNKNOWN = torch.ops.aten._local_scalar_dense.default
_DEVICE = torch.ops.prim.device.default


class Ledger(TorchDispatchMode):
    """Counts the bytes of all storages that are made while it is active, by kind, until they are freed.

    A number that code asks a tensor for, which nobody knows where there are no values, is 1.

    Args:
        owned: tensors that are there already and are not counted.

    Example:
        >>> with Ledger() as ledger:
        ...     kept = torch.zeros(2) + torch.zeros(2)
        >>> ledger.held["activations"], max(moment.activations for _, moment in ledger.moments)
        (8, 24)
    """

    def __init__(self, owned: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.kind = "activations"
        """Of what is made from now on."""
        self.when = "forward"
        """The name of the moments from now on, in :class:`~orpo_lightning.memory.Moment`."""
        self.place = ""
        """Where in the model these are."""
        self.held = dict.fromkeys(_KINDS, 0)
        self.moments: list[tuple[str, Moment]] = []
        """Place and content, whenever something has been made."""
        self._owned = list(owned)
        self._known: dict[int, tuple[weakref.ref[Any], str, int]] = {}
        for tensor in self._owned:
            self._note(tensor, "")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and write down what it has made."""
        if func is _UNKNOWN:
            return 1.0 if args[0].dtype.is_floating_point else 1
        if func is _DEVICE and isinstance(args[0], FakeTensor):  # asked more often than all else together
            return args[0].fake_device
        made = func(*args, **(kwargs or {}))
        new = [self._note(each, self.kind) for each in tree_iter(made) if isinstance(each, Tensor)]
        if any(new):
            self.moments.append((self.place, Moment(self.when, *self.held.values())))
        return made

    def _note(self, tensor: Tensor, kind: str) -> bool:
        """Whether a storage is a new one."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return False
        size = storage.nbytes()
        self._known[key] = (weakref.ref(storage, lambda _: self._forget(key)), kind, size)
        if kind:
            self.held[kind] += size
        return True

    def _forget(self, key: int) -> None:
        _, kind, size = self._known.pop(key)
        if kind:
            self.held[kind] -= size

    def count_as(self, kind: str, tensor: Tensor) -> None:
        """Count what a tensor holds as of this kind, whether or not it has been counted as another."""
        if self._note(tensor, kind):
            return
        key = id(tensor.untyped_storage())
        reference, old, size = self._known[key]
        self.held[old] -= size
        self.held[kind] += size
        self._known[key] = (reference, kind, size)
