"""Decoder layers compiled by torch.compile: once for all lengths, and never for generation.

What differs otherwise is compiled apart, at its first batch: training, validation, and a reference.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def compile_layers(net: PreTrainedModel) -> None:
    """Compile the decoder's layers in place; they are traced at their first call.

    Each is a graph of its own, so that attention, which goes over other blocks in each batch, is not a part of one,
    and that all layers share one compilation.

    Raises:
        ValueError: the model has none that transformers marks as such.
    """
    layers = [module for module in net.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"model.policy.compile_layers = true, but {type(net).__name__} has no layers that transformers marks as "
            "such; set it to false"
        )
    for layer in layers:
        layer.compile(dynamic=True)


def without_compilation() -> AbstractContextManager[object]:
    """Run compiled layers as they are written: where shapes change with each call, compiling takes longer."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
