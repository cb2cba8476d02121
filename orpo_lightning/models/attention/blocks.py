"""Packed attention as one call of sdpa for each segment: on every device, in every precision, also with dropout.

A prompt with its first response is one causal block. Each further response is a block of queries over the prompt
and itself.

Shape suffixes: H heads, K key-value heads, N tokens of the stream, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from orpo_lightning.models.attention.segments import AttentionCall, segments
from orpo_lightning.packing import GroupSpan


class BlockAttention:
    """The blocks of a packed stream and their masks.

    Args:
        groups: where each prompt group stands in the stream.
        device: where the stream is.
    """

    def __init__(self, groups: Sequence[GroupSpan], device: torch.device) -> None:
        self.segments = list(segments(groups))
        self.lengths = [segment.tokens for segment in self.segments]
        self.masks = [
            _lower_right_causal(segment.tokens, segment.prompt_tokens, device) if segment.prompt_tokens else None
            for segment in self.segments
        ]

    @staticmethod
    def obstacle(call: AttentionCall) -> str | None:
        """Why this kernel cannot run on such tensors: it always can."""
        return None

    def attend(
        self, query_HND: Tensor, key_KND: Tensor, value_KND: Tensor, scale: float | None, dropout: float
    ) -> Tensor:
        """Attention outputs of the whole stream, ``(1, H, N, D)``."""
        # split and not sliced: the gradient of each slice would be as large as the stream
        pieces = zip(*(states.split(self.lengths, dim=2) for states in (query_HND, key_KND, value_KND)), strict=True)
        first_key = first_value = key_KND
        outputs = []
        for segment, mask, (query, key, value) in zip(self.segments, self.masks, pieces, strict=True):
            if mask is None:
                first_key, first_value = key, value
            else:
                key = torch.cat([first_key[:, :, : segment.prompt_tokens], key], dim=2)
                value = torch.cat([first_value[:, :, : segment.prompt_tokens], value], dim=2)
            outputs.append(_attend(query, key, value, mask, scale, dropout).transpose(1, 2))
        # tokens before heads in memory, as the layer wants them next
        return torch.cat(outputs, dim=1).transpose(1, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, dropout: float
) -> Tensor:
    if query.is_cuda:  # whose fast kernels take no grouped queries with a mask, in fp32, or on older GPUs
        heads_per_key = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(heads_per_key, dim=1) for states in (key, value))
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=query.shape[1] > key.shape[1],
    )


def _lower_right_causal(queries: int, prompt: int, device: torch.device) -> Tensor:
    # a bool mask and not torch's causal_lower_right: that tensor subclass breaks autocast and compile
    return torch.ones(queries, prompt + queries, dtype=torch.bool, device=device).tril(diagonal=prompt)
