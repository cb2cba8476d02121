"""Attention over a packed stream: only where a token may look, without an N x N mask.

A prompt with its first response is one causal block. Each further response is a block of queries over the prompt
and itself. The function is registered under a name of its own with transformers; the layout comes down to it
through the keyword arguments of the decoder. Without a layout it is plain sdpa, so that the same model trains
packed, runs padded rows and generates.

Shape suffixes: H heads, K key-value heads, N tokens of the stream, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from orpo_lightning.packing import GroupSpan, PackedBatch

PACKED_ATTENTION = "orpo_lightning_packed"


class UnsupportedAttentionError(Exception):
    """A model asks of attention what the packed layout does not compute; it has to run padded."""


class AttentionLayout:
    """The blocks of a packed stream and their masks, built once per batch and opaque to the compiler."""

    def __init__(self, batch: PackedBatch) -> None:
        device = batch.input_ids.device
        self.blocks = [block for group in batch.groups for block in _blocks(group, device)]
        self.lengths = [block.queries for block in self.blocks]

    # the loop over blocks has another length for each batch: traced, it would be compiled anew each time
    @torch._dynamo.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
    def attend(
        self, query_HND: Tensor, key_KND: Tensor, value_KND: Tensor, scale: float | None, dropout: float
    ) -> Tensor:
        """Attention outputs of the whole stream, ``(1, N, H, D)``."""
        # split and not sliced: the gradient of each slice would be as large as the stream
        pieces = zip(*(states.split(self.lengths, dim=2) for states in (query_HND, key_KND, value_KND)), strict=True)
        first_key = first_value = key_KND
        outputs = []
        for block, (query, key, value) in zip(self.blocks, pieces, strict=True):
            if block.mask is None:
                first_key, first_value = key, value
            else:
                key = torch.cat([first_key[:, :, : block.prompt], key], dim=2)
                value = torch.cat([first_value[:, :, : block.prompt], value], dim=2)
            output = _attend(query, key, value, block.mask, scale, dropout)
            outputs.append(output.transpose(1, 2))
        return torch.cat(outputs, dim=1)


class _Block(NamedTuple):
    """Queries that attend together: a prompt with its first response, or a further response."""

    queries: int
    prompt: int
    mask: Tensor | None


def _blocks(group: GroupSpan, device: torch.device) -> Iterator[_Block]:
    prompt = group.prompt_end - group.start
    first_end = group.responses[0].end if group.responses else group.prompt_end
    yield _Block(first_end - group.start, prompt, None)
    for span in group.responses[1:]:
        queries = span.end - span.start
        if queries:
            # a bool mask and not torch's causal_lower_right: that tensor subclass breaks autocast and compile
            mask = torch.ones(queries, prompt + queries, dtype=torch.bool, device=device).tril(diagonal=prompt)
            yield _Block(queries, prompt, mask)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, dropout: float
) -> Tensor:
    grouped = query.shape[1] // key.shape[1]
    if mask is not None and query.is_cuda:  # which has no fast kernel for grouped queries with a mask
        key, value, grouped = key.repeat_interleave(grouped, dim=1), value.repeat_interleave(grouped, dim=1), 1
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=grouped > 1,
    )


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
    return outputs, None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
