"""Packed attention by the variable-length flash kernel: one call per layer, on CUDA, in half precision.

Queries are the stream as it is. Keys are the stream with the prompt repeated before each further response, so that
every segment has its keys in one piece; the kernel aligns the causal diagonal to the lower right.

Shape suffixes: H heads, K key-value heads, N tokens of the stream, T tokens of the keys, D head size.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from orpo_lightning.models.attention.segments import AttentionCall, needs_ampere, segments
from orpo_lightning.models.host_to_device import to_device
from orpo_lightning.packing import GroupSpan
from orpo_lightning.records import HALF_PRECISION

LARGEST_HEAD = 256
"""The kernel has no larger heads."""


def varlen_kernel() -> Callable[..., Any] | None:
    """The kernel of torch; None where it is missing or cannot be told scale, window and grouped queries yet."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size", "enable_gqa"} <= _arguments(varlen_attn) else None


@functools.cache
def _arguments(function: Callable[..., Any]) -> frozenset[str]:
    # asked in each layer
    return frozenset(inspect.signature(function).parameters)


class KeyPlan:
    """Which token of the stream each key is, and the way back for gradients.

    A plain index_select would add up the gradients of a repeated prompt in the order in which threads arrive. Here
    each addition touches a token once, so that the sum has one order.

    Args:
        groups: where each prompt group stands in the stream.
        device: where the indices are needed.
    """

    def __init__(self, groups: Sequence[GroupSpan], device: torch.device) -> None:
        tokens: list[Tensor] = []
        own: list[Tensor] = []
        repeats: list[tuple[list[Tensor], list[Tensor]]] = []
        end, repeat, prompt_start = 0, 0, -1
        for segment in segments(groups):
            if segment.prompt_tokens:
                repeat = repeat + 1 if segment.prompt_start == prompt_start else 0
                prompt_start = segment.prompt_start
                if repeat == len(repeats):
                    repeats.append(([], []))
                prompt = torch.arange(segment.prompt_start, segment.prompt_end)
                tokens.append(prompt)
                repeats[repeat][0].append(prompt)
                repeats[repeat][1].append(torch.arange(end, end + segment.prompt_tokens))
                end += segment.prompt_tokens
            tokens.append(torch.arange(segment.start, segment.end))
            own.append(torch.arange(end, end + segment.tokens))
            end += segment.tokens

        def index(pieces: list[Tensor]) -> Tensor:
            return to_device(torch.cat(pieces), device)

        self.tokens_T = index(tokens)
        self.own_N = index(own)
        self.repeats = [(index(tokens), index(places)) for tokens, places in repeats]
        """For the first, second, … time that prompts are repeated: their tokens, and where these stand in the keys."""


class _RepeatPrompts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states_NKD: Tensor, plan: KeyPlan) -> Tensor:
        ctx.plan = plan
        return states_NKD.index_select(0, plan.tokens_T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TKD: Tensor) -> tuple[Tensor, None]:
        grad_NKD = grad_TKD.index_select(0, ctx.plan.own_N)
        for tokens, places in ctx.plan.repeats:
            grad_NKD.index_add_(0, tokens, grad_TKD.index_select(0, places))
        return grad_NKD, None


class VarlenAttention:
    """The segments as sequences of a variable-length kernel.

    Without ``torch.use_deterministic_algorithms`` the kernel's own backward pass adds up the gradients of the queries
    in no fixed order.

    Args:
        groups: where each prompt group stands in the stream.
        device: where the stream is.
    """

    def __init__(self, groups: Sequence[GroupSpan], device: torch.device) -> None:
        self.plan = KeyPlan(groups, device)
        queries = [segment.tokens for segment in segments(groups)]
        keys = [segment.prompt_tokens + segment.tokens for segment in segments(groups)]

        def offsets(lengths: list[int]) -> Tensor:
            return to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device)

        self.query_offsets, self.key_offsets = offsets(queries), offsets(keys)
        # at 1 the kernel would take a path that was made for generation
        self.longest_query, self.longest_key = max(2, *queries), max(2, *keys)

    @staticmethod
    def obstacle(call: AttentionCall) -> str | None:
        """Why this kernel cannot run on such tensors; None if it can."""
        if varlen_kernel() is None:
            return f"torch {torch.__version__} has no varlen_attn with window_size and enable_gqa, as 2.12 has"
        if not_ampere := needs_ampere(call.device):
            return not_ampere
        if call.dtype not in HALF_PRECISION:
            return f"it computes in bfloat16 or float16, and here is {str(call.dtype).removeprefix('torch.')}"
        if call.head_size != call.value_size:
            return f"its keys and values have heads of one size, and these have {call.head_size} and {call.value_size}"
        if call.head_size % 8 or call.head_size > LARGEST_HEAD:
            return f"its heads have a size of 8, 16, 24, … {LARGEST_HEAD}, and these have {call.head_size}"
        return None

    def attend(
        self, query_HND: Tensor, key_KND: Tensor, value_KND: Tensor, scale: float | None, dropout: float
    ) -> Tensor:
        """Attention outputs of the whole stream, ``(1, H, N, D)``."""
        assert dropout == 0.0, "the kernel has no dropout"
        kernel = varlen_kernel()
        assert kernel is not None
        output_NHD: Tensor = kernel(
            query_HND[0].transpose(0, 1),
            self._keys(key_KND),
            self._keys(value_KND),
            self.query_offsets,
            self.key_offsets,
            self.longest_query,
            self.longest_key,
            scale=scale,
            window_size=(-1, 0),  # everything before, nothing after: causal
            enable_gqa=query_HND.shape[1] != key_KND.shape[1],
        )
        return output_NHD.transpose(0, 1)[None]

    def _keys(self, states_KND: Tensor) -> Tensor:
        states_NKD = states_KND[0].transpose(0, 1)
        if not self.plan.repeats:
            return states_NKD
        repeated: Tensor = _RepeatPrompts.apply(states_NKD, self.plan)  # type: ignore[no-untyped-call]  # autograd.Function
        return repeated
