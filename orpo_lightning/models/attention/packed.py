"""Attention over a packed stream: only where a token may look, without an N x N mask.

The function is registered under a name of its own with transformers; the layout comes down to it through the keyword
arguments of the decoder. Without a layout it is plain sdpa, so that the same model trains packed, runs padded rows and
generates.

Shape suffixes: H heads, K key-value heads, N tokens of the stream, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from orpo_lightning.models.attention.choice import AttentionKernelName, kernel_for
from orpo_lightning.models.attention.segments import AttentionCall, AttentionKernel
from orpo_lightning.packing import GroupSpan, PackedBatch

PACKED_ATTENTION = "orpo_lightning_packed"


class UnsupportedAttentionError(Exception):
    """A model asks of attention what the packed layout does not compute; it has to run padded."""


class AttentionLayout:
    """Where the tokens of a packed stream may look, opaque to the compiler.

    Args:
        groups: where each prompt group stands in the stream.
        choice: the kernel that computes it.
    """

    def __init__(self, groups: Sequence[GroupSpan], choice: AttentionKernelName) -> None:
        self.groups = groups
        self.choice = choice
        self._kernels: dict[type[AttentionKernel], AttentionKernel] = {}

    # what a kernel does has another length for each batch: traced, it would be compiled anew each time
    @torch._dynamo.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
    def attend(
        self, query_HND: Tensor, key_KND: Tensor, value_KND: Tensor, scale: float | None, dropout: float
    ) -> Tensor:
        """Attention outputs of the whole stream, ``(1, H, N, D)``."""
        cls = kernel_for(self.choice, AttentionCall.of(query_HND, key_KND, value_KND), dropout > 0)
        if cls not in self._kernels:  # once per batch, in the first layer
            self._kernels[cls] = cls(self.groups, query_HND.device)
        return self._kernels[cls].attend(query_HND, key_KND, value_KND, scale, dropout)


_layouts: WeakKeyDictionary[PackedBatch, dict[tuple[AttentionKernelName, bool], AttentionLayout]] = WeakKeyDictionary()


def layout_of(batch: PackedBatch, choice: AttentionKernelName = "auto") -> AttentionLayout:
    """The layout of a batch, with its masks: made once, for the policy and for a reference that runs beside it.

    Args:
        batch: the packed micro-batch.
        choice: the kernel that computes it.
    """
    # what is made in inference mode is of no use to a backward pass
    key = (choice, torch.is_inference_mode_enabled())
    return _layouts.setdefault(batch, {}).setdefault(key, AttentionLayout(batch.groups, choice))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: AttentionLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in each layer; with `layout` None it is sdpa.

    Raises:
        UnsupportedAttentionError: the layer wants soft-capped scores, a bias by position, or sinks.
    """
    if layout is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    for name in ("softcap", "position_bias", "s_aux"):
        if kwargs.get(name) is not None:
            raise UnsupportedAttentionError(f"its attention uses {name!r}")
    # under autocast rotary embeddings leave queries and keys in fp32 beside values in bf16
    outputs = layout.attend(query.to(value.dtype), key.to(value.dtype), value, scaling, dropout)
    return outputs.transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
