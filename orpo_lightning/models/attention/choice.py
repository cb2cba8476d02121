"""Which kernel computes the attention of a packed stream.

No kernel has been measured on a GPU yet: the order of preference of ``auto`` is what is expected, and is to be
confirmed.
"""

from __future__ import annotations

import functools
import warnings
from typing import Literal

from orpo_lightning.models.agreement import KernelWarning
from orpo_lightning.models.attention.blocks import BlockAttention
from orpo_lightning.models.attention.check import disagreement
from orpo_lightning.models.attention.flex import FlexAttention
from orpo_lightning.models.attention.segments import AttentionCall, AttentionKernel
from orpo_lightning.models.attention.varlen import VarlenAttention

AttentionKernelName = Literal["auto", "blocks", "flex", "varlen"]
SETTING = "model.policy.attention_kernel"

KERNELS: dict[str, type[AttentionKernel]] = {
    "varlen": VarlenAttention,
    "flex": FlexAttention,
    "blocks": BlockAttention,
}
"""The kernels by name, in the order in which ``auto`` tries them."""


@functools.cache
def kernel_for(choice: AttentionKernelName, call: AttentionCall, dropout: bool = False) -> type[AttentionKernel]:
    """The kernel that computes a call; asked in each layer, and found out once.

    A kernel other than the blocks is compared with them on a few tokens before it is used on a device, in a dtype and
    in heads of a size for the first time.

    Args:
        choice: the name of a kernel, or ``auto`` for the first that can.
        call: what it computes on.
        dropout: whether the probabilities are dropped out, which only the blocks can.

    Raises:
        ValueError: the kernel that was chosen cannot run here, or gives other numbers than the blocks.
    """
    if dropout:
        return BlockAttention
    if choice != "auto":
        reason = KERNELS[choice].obstacle(call) or disagreement(KERNELS[choice], call)
        if reason is not None:
            others = [name for name, kernel in KERNELS.items() if name != choice and kernel.obstacle(call) is None]
            raise ValueError(f"{SETTING} = {choice!r}, but {reason}; accepted: {', '.join(sorted(['auto', *others]))}")
        return KERNELS[choice]
    for name, kernel in KERNELS.items():
        if kernel.obstacle(call) is None:
            reason = disagreement(kernel, call)
            if reason is None:
                return kernel
            warnings.warn(f"packed attention runs without its kernel {name!r}: {reason}", KernelWarning, stacklevel=2)
    raise AssertionError("the blocks can run anything")
