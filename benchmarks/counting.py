"""Floating-point operations of a training step, counted while it runs.

Attention counts as full rectangles of queries x keys, causal or not: two products of matrices forward and five
backward. What is computed again in the backward pass counts again. Depends on torch alone, so that every trainer can
be counted where it runs.
"""

from __future__ import annotations

from typing import Any

import torch
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
