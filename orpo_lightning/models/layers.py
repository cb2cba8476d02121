"""The decoder layers of a model: what is compiled, computed again or shared out one at a time."""

from __future__ import annotations

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def decoder_layers(net: nn.Module) -> dict[str, nn.Module]:
    """The layers that transformers marks as such, by name, in the order of the network.

    Args:
        net: a Hugging Face model, or a peft model around one.

    Raises:
        ValueError: there are none.

    Example:
        >>> from orpo_lightning.models.tiny import tiny_model
        >>> list(decoder_layers(tiny_model("llama")))
        ['model.layers.0', 'model.layers.1']
    """
    modules = net.named_modules()
    layers: dict[str, nn.Module] = {
        name: each for name, each in modules if isinstance(each, GradientCheckpointingLayer)
    }
    if not layers:
        raise ValueError(f"{type(net).__name__} has no layers that transformers marks as such")
    return layers


def layers_to_gather(net: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model that is shared out, whose weights are gathered while they compute.

    Where an adapter trains a copy of a layer in full, neither is one: the copy rounds its weights before it computes,
    and torch fails on a layer that does not compute.

    Args:
        net: as for :func:`decoder_layers`.
    """
    return {name: layer for name, layer in decoder_layers(net).items() if not has_copy(name)}


def has_copy(name: str) -> bool:
    """Whether a module is one that an adapter trains a copy of, or such a copy, or a part of these.

    Example:
        >>> has_copy("layers.0.modules_to_save.default.mlp"), has_copy("layers.0.original_module"), has_copy("layers.0")
        (True, True, False)
    """
    return not {"modules_to_save", "original_module"}.isdisjoint(name.split("."))
