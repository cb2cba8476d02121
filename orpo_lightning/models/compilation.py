"""Decoder layers compiled by torch.compile: once for all lengths, and never for generation.

What differs otherwise is compiled apart, at its first batch: training, validation, and a reference.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from transformers import PreTrainedModel

from orpo_lightning.models.layers import decoder_layers


def compile_layers(net: PreTrainedModel) -> None:
    """Compile the decoder's layers in place; they are traced at their first call.

    Each is a graph of its own, so that attention, which goes over other blocks in each batch, is not a part of one,
    and that all layers share one compilation.

    Raises:
        ValueError: the model has none that transformers marks as such.
    """
    try:
        layers = decoder_layers(net)
    except ValueError as error:
        raise ValueError(f"model.policy.compile_layers = true, but {error}; set it to false") from error
    for layer in layers.values():
        layer.compile(dynamic=True)


def without_compilation() -> AbstractContextManager[object]:
    """Run compiled layers as they are written: where shapes change with each call, compiling takes longer."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
