"""Layers in 4 bits that hold no numbers: to find out what those that bitsandbytes makes would hold."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer

_BLOCK, _BLOCK_OF_SCALES = 64, 256
"""Weights that share a scale, and scales that share one."""


def in_four_bits(net: PreTrainedModel, config: BitsAndBytesConfig) -> None:
    """Put such layers into a model in the place of those that are read in 4 bits.

    Args:
        net: the model, its weights on the meta device.
        config: how they are read.
    """
    quantizer: Any = AutoHfQuantizer.from_config(config, pre_quantized=False)
    quantizer.preprocess_model(net, device_map=None)
    for name, layer in list(net.named_modules()):
        if isinstance(layer, Linear4bit):
            net.set_submodule(name, _WithoutValues(layer))
    quantizer.postprocess_model(net)


class _WithoutValues(Linear4bit):
    def __init__(self, layer: Linear4bit) -> None:
        size, dtype = (layer.in_features, layer.out_features), layer.compute_dtype
        super().__init__(*size, layer.bias is not None, dtype, device="meta")  # type: ignore[no-untyped-call]  # no types
        weights = layer.in_features * layer.out_features
        scales = -(-weights // _BLOCK)
        own: Any = layer.weight
        kinds = {"compress_statistics": own.compress_statistics, "quant_type": own.quant_type}
        self.weight = nn.Parameter(torch.empty(-(-weights // 2), 1, dtype=torch.uint8, device="meta"), False)
        vars(self.weight).update(kinds)  # peft asks for them
        if self.bias is not None:
            self.bias = nn.Parameter(torch.empty_like(self.bias, dtype=dtype), False)
        self.register_buffer("scales", torch.empty(scales, dtype=torch.uint8, device="meta"))
        self.register_buffer("scales_of_scales", torch.empty(-(-scales // _BLOCK_OF_SCALES), device="meta"))

    def forward(self, hidden: Tensor) -> Tensor:
        """What has the shape of the product."""
        made: Tensor = _Product.apply(  # type: ignore[no-untyped-call]  # autograd.Function
            hidden.to(self.compute_dtype), self.bias, self.out_features
        )
        return made.to(hidden.dtype)


class _Product(torch.autograd.Function):
    """Each pass makes numbers of the weight, and lets them go; of the input nothing is kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
        ctx.shape = (outputs, hidden.shape[-1])
        return nn.functional.linear(hidden, _numbers(ctx.shape, hidden), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ _numbers(ctx.shape, gradient), None, None


def _numbers(shape: tuple[int, int], like: Tensor) -> Tensor:
    scales = torch.empty(-(-shape[0] * shape[1] // _BLOCK), device=like.device)
    numbers = torch.empty(shape, dtype=like.dtype, device=like.device)
    del scales
    return numbers
