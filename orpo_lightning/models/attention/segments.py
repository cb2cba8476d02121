"""Where the tokens of a packed stream may look, as segments: what every kernel of the packed layout computes.

A prompt with its first response is one segment. Each further response is another one, whose tokens see the prompt as
well as themselves. Segments follow each other in the stream without gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from orpo_lightning.packing import GroupSpan


class Segment(NamedTuple):
    """Tokens ``[start, end)``, each of which sees ``[prompt_start, prompt_end)``, itself and those before it here."""

    start: int
    end: int
    prompt_start: int
    prompt_end: int

    @property
    def tokens(self) -> int:
        """How many tokens look."""
        return self.end - self.start

    @property
    def prompt_tokens(self) -> int:
        """How many tokens outside of it they see; 0 where the prompt is a part of the segment."""
        return self.prompt_end - self.prompt_start


def segments(groups: Sequence[GroupSpan]) -> Iterator[Segment]:
    """The segments of a stream, in its order; responses of one token, which take no place in it, have none.

    Example:
        >>> from orpo_lightning.packing import ResponseSpan
        >>> pair = GroupSpan(0, 4, (ResponseSpan(4, 6), ResponseSpan(6, 9)))
        >>> [tuple(segment) for segment in segments([pair])]
        [(0, 6, 0, 0), (6, 9, 0, 4)]
    """
    for group in groups:
        first_end = group.responses[0].end if group.responses else group.prompt_end
        yield Segment(group.start, first_end, group.start, group.start)
        for span in group.responses[1:]:
            if span.start < span.end:
                yield Segment(span.start, span.end, group.start, group.prompt_end)


@dataclass(frozen=True)
class AttentionCall:
    """What a kernel has to know of queries, keys and values to say whether it can run on them.

    Args:
        device: where they are.
        dtype: of all three.
        heads: of the queries.
        key_heads: of keys and values.
        head_size: of queries and keys.
        value_size: of a head of the values.
    """

    device: torch.device
    dtype: torch.dtype
    heads: int
    key_heads: int
    head_size: int
    value_size: int

    @classmethod
    def of(cls, query_HND: Tensor, key_KND: Tensor, value_KND: Tensor) -> AttentionCall:
        """What these are."""
        return cls(
            device=query_HND.device,
            dtype=value_KND.dtype,
            heads=query_HND.shape[1],
            key_heads=key_KND.shape[1],
            head_size=query_HND.shape[-1],
            value_size=value_KND.shape[-1],
        )


class AttentionKernel(Protocol):
    """One way of computing the attention of a packed stream; it is made once per batch."""

    def __init__(self, groups: Sequence[GroupSpan], device: torch.device) -> None: ...

    @staticmethod
    def obstacle(call: AttentionCall) -> str | None:
        """Why this kernel cannot run on such tensors; None if it can."""

    def attend(
        self, query_HND: Tensor, key_KND: Tensor, value_KND: Tensor, scale: float | None, dropout: float
    ) -> Tensor:
        """Attention outputs of the whole stream, ``(1, H, N, D)``."""


def compute_capability(device: torch.device) -> tuple[int, int]:
    """Generation of a GPU: 8.0 is an A100, 9.0 an H100."""
    return torch.cuda.get_device_capability(device)


def needs_ampere(device: torch.device) -> str | None:
    """Why a kernel for GPUs from the A100 on cannot run on a device; None if it can."""
    if device.type != "cuda":
        return f"it runs on CUDA, and this is {device.type}"
    major, minor = compute_capability(device)
    return None if major >= 8 else f"it needs compute capability 8.0, and this GPU has {major}.{minor}"
