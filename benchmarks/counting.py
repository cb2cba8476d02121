"""Floating-point operations of a training step: counted while it runs, and from a closed form.

Attention counts as full rectangles of queries x keys, causal or not: two products of matrices forward and five
backward. What is computed again in the backward pass counts again. Depends on torch alone, so that every trainer can
be counted where it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

CONVENTION = (
    "Floating-point operations are those of the products of matrices, forward and backward, counted while they run; "
    "what is computed again in the backward pass counts again; attention counts as full rectangles of queries x keys, "
    "causal or not, on both sides."
)
_ATEN = torch.ops.aten


def count_flops() -> FlopCounterMode:
    """A context that counts the floating-point operations in it; ``get_total_flops()`` tells them.

    Torch's own table lacks the attention of the CPU, which it would count as nothing, and a product that is added in
    place, with which TRL's chunked head sums its gradients.
    """
    return FlopCounterMode(
        display=False,
        custom_mapping={
            _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
            _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
            _ATEN.addmm_: _added_product,
        },
    )


# the counter calls them with shapes in place of tensors
def _attention(query: Any, key: Any, value: Any, *others: Any, out_shape: Any = None, **options: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *others: Any, out_shape: Any = None, **options: Any
) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


def _added_product(total: Any, left: Any, right: Any, *, out_shape: Any = None, **options: Any) -> int:
    (rows, inner), (_, columns) = left, right
    return int(2 * rows * inner * columns)


@dataclass(frozen=True)
class DecoderSize:
    """What the work of a Hugging Face decoder of linear layers and attention depends on, but for the tokens.

    Args:
        weights: of its linear layers, the output head excepted.
        layers: number of layers.
        attention: width of all heads together.
        hidden: width of what the head takes.
        vocabulary: width of what it gives.
    """

    weights: int
    layers: int
    attention: int
    hidden: int
    vocabulary: int

    @classmethod
    def of(cls, net: Any) -> DecoderSize:
        """The size of a model."""
        config, head = net.config, net.get_output_embeddings()
        linear = [module for module in net.modules() if isinstance(module, nn.Linear) and module is not head]
        heads = config.num_attention_heads
        return cls(
            weights=sum(module.weight.numel() for module in linear),
            layers=config.num_hidden_layers,
            attention=heads * (getattr(config, "head_dim", None) or config.hidden_size // heads),
            hidden=head.in_features,
            vocabulary=head.out_features,
        )


def training_flops(size: DecoderSize, tokens: int, scored: int, attended: int, head_passes: int = 3) -> int:
    """Forward and backward: ``6 W N + 2 k d V R + 3.5 * 4 d L S``.

    Args:
        size: of the model.
        tokens: that its layers run on.
        scored: positions that its head runs on.
        attended: queries x keys, summed over the blocks of one layer.
        head_passes: products of the head for each position: forward and two backward, and one more where the logits
            are computed again in the backward pass.
    """
    linear = 6 * size.weights * tokens
    head = 2 * head_passes * size.hidden * size.vocabulary * scored
    return linear + head + 14 * size.attention * size.layers * attended
