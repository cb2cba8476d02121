"""The kernels of the packed layout that a user can choose."""

from __future__ import annotations

from dataclasses import dataclass

from orpo_lightning.models.attention.choice import AttentionKernelName, check_name
from orpo_lightning.models.head_kernels import HeadKernelName, check_head


@dataclass(frozen=True)
class Kernels:
    """Which kernels compute the packed layout; they differ by rounding and speed only.

    Args:
        attention: that of the attention.
        head: that of the log-probabilities.
    """

    attention: AttentionKernelName = "auto"
    head: HeadKernelName = "blocks"

    def __post_init__(self) -> None:
        check_name(self.attention)
        check_head(self.head)
