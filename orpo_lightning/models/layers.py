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
