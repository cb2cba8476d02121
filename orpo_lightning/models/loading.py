"""Loading of causal language models from the configuration."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from orpo_lightning.models.pretrained import resolve

Dtype = Literal["float64", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class PolicyConfig:
    """The model that is trained.

    Args:
        name_or_path: ``tiny`` (a small random Llama made on the spot), ``smollm2`` (SmolLM2-135M-Instruct), a folder
            or a hub id.
        revision: branch, tag or commit of a hub id.
        dtype: of the weights.
        attn_implementation: attention of transformers for generation and the padded layout; None is its default.
        gradient_checkpointing: compute each layer's activations again in the backward pass instead of keeping them.
        disable_dropout: set every dropout of the model to 0. With dropout the loss depends on how a global batch is
            split.
    """

    name_or_path: str = "tiny"
    revision: str | None = None
    dtype: Dtype = "float32"
    attn_implementation: str | None = None
    gradient_checkpointing: bool = False
    disable_dropout: bool = True


@dataclass(frozen=True)
class ReferenceConfig:
    """The frozen model that an objective compares the policy with. Loaded only for objectives that need one.

    Args:
        name_or_path: as in :class:`PolicyConfig`; None is the policy's starting weights.
        revision: branch, tag or commit of a hub id.
    """

    name_or_path: str | None = None
    revision: str | None = None


def load_causal_lm(config: PolicyConfig) -> PreTrainedModel:
    """Load a Hugging Face causal language model, in train mode.

    Raises:
        FileNotFoundError: `name_or_path` is a path and nothing is there.
        ModuleNotFoundError: `name_or_path` is a short name whose package is not installed.
    """
    path = resolve(config.name_or_path)
    model_config = AutoConfig.from_pretrained(path, revision=config.revision)
    if config.disable_dropout:
        _disable_dropout(model_config)
    net: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path,
        config=model_config,
        revision=config.revision,
        dtype=getattr(torch, config.dtype),
        attn_implementation=config.attn_implementation,
    )
    if config.gradient_checkpointing:
        net.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    net.train()
    return net


def load_reference(reference: ReferenceConfig, policy: PolicyConfig) -> PreTrainedModel:
    """Load the reference model, frozen and in eval mode; by default a second copy of the policy's starting weights."""
    config = PolicyConfig(
        name_or_path=reference.name_or_path or policy.name_or_path,
        revision=reference.revision if reference.name_or_path else policy.revision,
        dtype=policy.dtype,
        attn_implementation=policy.attn_implementation,
    )
    net = load_causal_lm(config)
    net.requires_grad_(False)
    net.eval()
    return net


def fingerprint(net: torch.nn.Module) -> str:
    """A hash of all weights and their names, to recognise a model by.

    Example:
        >>> fingerprint(torch.nn.ReLU())
        'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _disable_dropout(config: PretrainedConfig) -> None:
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float) and value:
            setattr(config, name, 0.0)
