"""Attention over a packed stream: only where a token may look, without an N x N mask.

A prompt with its first response is one causal block. Each further response is a block of queries over the prompt
and itself. The function is registered under a name of its own with transformers; the layout comes down to it
through the keyword arguments of the decoder. Without a layout it is plain sdpa, so that the same model trains
packed, runs padded rows and generates.

Shape suffixes: H heads, K key-value heads, N tokens of the stream, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from orpo_lightning.packing import GroupSpan, PackedBatch, ResponseSpan

PACKED_ATTENTION = "orpo_lightning_packed"


class UnsupportedAttentionError(Exception):
    """A model asks of attention what the packed layout does not compute; it has to run padded."""


class AttentionLayout:
    """The blocks of a packed stream and their masks, built once per batch and opaque to the compiler."""

    def __init__(self, batch: PackedBatch) -> None:
        self.groups = batch.groups
        device = batch.input_ids.device
        self.masks = [
            [
                _lower_right_causal(span.end - span.start, group.prompt_end - group.start, device)
                for span in group.responses[1:]
            ]
            for group in batch.groups
        ]

    # the loop over blocks has another length for each batch: traced, it would be compiled anew each time
    @torch._dynamo.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
    def attend(
        self, query_HND: Tensor, key_KND: Tensor, value_KND: Tensor, scale: float | None, dropout: float
    ) -> Tensor:
        """Attention outputs of the whole stream, ``(1, H, N, D)``."""
        heads_per_key = query_HND.shape[1] // key_KND.shape[1]
        outputs = []
        for group, masks in zip(self.groups, self.masks, strict=True):
            first_end = group.responses[0].end if group.responses else group.prompt_end
            block = slice(group.start, first_end)
            outputs.append(
                F.scaled_dot_product_attention(
                    query_HND[:, :, block],
                    key_KND[:, :, block],
                    value_KND[:, :, block],
                    dropout_p=dropout,
                    is_causal=True,
                    scale=scale,
                    enable_gqa=heads_per_key > 1,
                )
            )
            for span, mask in zip(group.responses[1:], masks, strict=True):
                if span.start == span.end:
                    continue
                outputs.append(
                    F.scaled_dot_product_attention(
                        query_HND[:, :, span.start : span.end],
                        _prompt_and_response(key_KND, group, span, heads_per_key),
                        _prompt_and_response(value_KND, group, span, heads_per_key),
                        attn_mask=mask,
                        dropout_p=dropout,
                        scale=scale,
                    )
                )
        return torch.cat(outputs, dim=2)


def _lower_right_causal(queries: int, prompt: int, device: torch.device) -> Tensor:
    # a bool mask and not torch's causal_lower_right: that tensor subclass breaks autocast and compile
    return torch.ones(queries, prompt + queries, dtype=torch.bool, device=device).tril(diagonal=prompt)


def _prompt_and_response(states_KND: Tensor, group: GroupSpan, span: ResponseSpan, heads_per_key: int) -> Tensor:
    prompt, response = states_KND[:, :, group.start : group.prompt_end], states_KND[:, :, span.start : span.end]
    # keys are repeated for their heads here, because CUDA has no fast kernel for grouped queries with a mask
    return torch.cat([prompt, response], dim=2).repeat_interleave(heads_per_key, dim=1)


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
