"""Whether a kernel gives the numbers of the blocks where it is about to be used.

A kernel that was built for another generation of GPUs, another version of its compiler, or a causal diagonal that is
aligned to another corner runs without a word and trains on something else.

Shape suffixes: H heads, K key-value heads, N tokens of the stream, D head size.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from orpo_lightning.models.agreement import disagreement_of
from orpo_lightning.models.attention.blocks import BlockAttention
from orpo_lightning.models.attention.segments import AttentionCall, AttentionKernel
from orpo_lightning.packing import GroupSpan, ResponseSpan

GROUPS = (
    GroupSpan(0, 130, (ResponseSpan(130, 170), ResponseSpan(170, 290))),
    GroupSpan(290, 291, (ResponseSpan(291, 291), ResponseSpan(291, 296), ResponseSpan(296, 305))),
    GroupSpan(305, 312, (ResponseSpan(312, 320),)),
)
"""More than two tiles, a prompt that ends within one, a prompt of one token, a response that takes no place."""


@functools.cache
def disagreement(kernel: type[AttentionKernel], call: AttentionCall) -> str | None:
    """Why a kernel is not to be trusted with a call, in value and gradient; None if it is."""
    if kernel is BlockAttention:
        return None
    return disagreement_of(
        lambda: _value_and_gradients(kernel, call, call.dtype),
        lambda: _value_and_gradients(BlockAttention, call, torch.float64),
        call.device,
        call.dtype,
    )


def _value_and_gradients(kernel: type[AttentionKernel], call: AttentionCall, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = GROUPS[-1].responses[-1].end

    def random(heads: int, size: int) -> Tensor:
        # laid out in memory as the projections of a model are, rounded as the kernel gets them
        drawn = torch.randn(1, tokens, heads, size, generator=generator).to(call.device, call.dtype)
        return drawn.to(dtype).transpose(1, 2).requires_grad_()

    query_HND = random(call.heads, call.head_size)
    key_KND = random(call.key_heads, call.head_size)
    value_KND = random(call.key_heads, call.value_size)
    output_HND = kernel(GROUPS, call.device).attend(query_HND, key_KND, value_KND, None, 0.0)
    weight_HND = random(call.heads, call.value_size).detach()
    gradients = torch.autograd.grad((output_HND * weight_HND).sum(), (query_HND, key_KND, value_KND))
    return [output_HND.detach(), *gradients]
