"""Frozen weights in 4 bits below an adapter (QLoRA, arXiv:2305.14314), by bitsandbytes."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor
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


def numbers_in(weight: Tensor) -> int:
    """How many numbers a weight stands for: in 4 bits there are two in a byte.

    Example:
        >>> numbers_in(torch.zeros(2, 3))
        6
    """
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else int(state.shape.numel())
