"""Frozen weights in 4 bits below an adapter (QLoRA, arXiv:2305.14314), by bitsandbytes."""

from __future__ import annotations

import importlib.util
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

QUANTIZATION_HELP = (
    "model.policy.load_in_4bit needs the package bitsandbytes, which is not installed: pip install "
    "'orpo-lightning[bitsandbytes]'"
)


def four_bits(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """The quantization of the linear layers: NF4, with the scales of the blocks quantized too.

    Args:
        compute_dtype: in which a layer multiplies.

    Raises:
        ModuleNotFoundError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(QUANTIZATION_HELP)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def is_in_four_bits(layer: nn.Module) -> bool:
    """Whether the weight of a layer is in 4 bits.

    Example:
        >>> is_in_four_bits(nn.Linear(2, 2))
        False
    """
    return getattr(getattr(layer, "weight", None), "quant_state", None) is not None


def keep_numbers(net: nn.Module) -> None:
    """Have layers in 4 bits compute with what they were read as, wherever they run.

    On CPUs that multiply in bf16 (AVX512-BF16) bitsandbytes would round the scales of a layer once it runs without a
    gradient of its input, for good, and take products that have no gradients.

    Args:
        net: the model.
    """
    for layer in net.modules():
        if is_in_four_bits(layer):
            cast(Any, layer).support_avx512bf16_for_cpu = False


def dequantized(layer: nn.Module, dtype: torch.dtype) -> nn.Linear:
    """An ordinary layer on the CPU with the numbers that one in 4 bits stands for; that one is not changed.

    Args:
        layer: a linear layer whose weight is in 4 bits.
        dtype: of the numbers.
    """
    from bitsandbytes.functional import dequantize_4bit

    assert isinstance(layer, nn.Linear)
    weight = dequantize_4bit(layer.weight.data, cast(Any, layer.weight).quant_state)
    plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight.to("cpu", dtype), requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().to("cpu", dtype, copy=True), requires_grad=False)
    return plain


def numbers_in(weight: Tensor) -> int:
    """How many numbers a weight stands for: in 4 bits there are two in a byte.

    Example:
        >>> numbers_in(torch.zeros(2, 3))
        6
    """
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else int(state.shape.numel())
