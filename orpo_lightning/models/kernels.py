"""The kernels of the packed layout that a user can choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from orpo_lightning.models import head_kernels
from orpo_lightning.models.attention import choice
from orpo_lightning.models.attention.choice import AttentionKernelName
from orpo_lightning.models.head_kernels import HeadKernelName


@dataclass(frozen=True)
class Kernels:
    """Which kernels compute the packed layout; they differ by rounding and speed only.

    Args:
        attention: that of the attention.
        head: that of the log-probabilities.

    Example:
        >>> Kernels(attention="flash")
        Traceback (most recent call last):
        ...
        ValueError: model.policy.attention_kernel = 'flash'; accepted: auto, blocks, flex, varlen
    """

    attention: AttentionKernelName = "auto"
    head: HeadKernelName = "blocks"

    def __post_init__(self) -> None:
        for setting, name, accepted in (
            (choice.SETTING, self.attention, get_args(AttentionKernelName)),
            (head_kernels.SETTING, self.head, get_args(HeadKernelName)),
        ):
            if name not in accepted:
                raise ValueError(f"{setting} = {name!r}; accepted: {', '.join(accepted)}")
