"""Loading of causal language models from the configuration."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from huggingface_hub.utils.tqdm import enable_progress_bars
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from orpo_lightning.models.adapters import LoraConfig, add_adapter, merge_adapter
from orpo_lightning.models.pretrained import base_of_adapter, resolve

Dtype = Literal["float64", "float32", "bfloat16", "float16"]
ReferenceMode = Literal["auto", "copy", "adapter", "cached"]


@dataclass(frozen=True)
class PolicyConfig:
    """The model that is trained.

    Args:
        name_or_path: ``tiny`` (a small random Llama made on the spot), ``smollm2`` (SmolLM2-135M-Instruct), a folder
            of a model, of an adapter (merged into its base model) or of a run, a checkpoint file, or a hub id.
        revision: branch, tag or commit of a hub id.
        dtype: of the weights.
        attn_implementation: attention of transformers for generation and the padded layout; None is its default.
        gradient_checkpointing: compute each layer's activations again in the backward pass instead of keeping them.
        disable_dropout: set every dropout of the model to 0. With dropout the loss depends on how a global batch is
            split.
        trust_remote_code: run the Python files that come with a model whose architecture transformers does not know.
        lora: the adapter that is trained in place of the model's own weights; with ``r: 0`` there is none.
    """

    name_or_path: str = "tiny"
    revision: str | None = None
    dtype: Dtype = "float32"
    attn_implementation: str | None = None
    gradient_checkpointing: bool = False
    disable_dropout: bool = True
    trust_remote_code: bool = False
    lora: LoraConfig = LoraConfig()

    @property
    def has_dropout(self) -> bool:
        """Whether training may draw random numbers, so that the policy need not equal itself in eval mode."""
        return not self.disable_dropout or self.lora.dropout > 0


@dataclass(frozen=True)
class ReferenceConfig:
    """The frozen model that an objective compares the policy with. There is none for objectives that need none.

    Args:
        name_or_path: as in :class:`PolicyConfig`; None is the policy's starting weights.
        revision: branch, tag or commit of a hub id.
        mode: ``copy`` keeps a second, frozen model; ``adapter`` is the policy with its LoRA adapter switched off;
            ``cached`` computes all log-probabilities before the first step, keeps them on disk for every later run
            against the same weights, and holds no second model; ``auto`` is ``adapter`` where that is the policy's
            starting point, else ``copy``. All give the same numbers.
    """

    name_or_path: str | None = None
    revision: str | None = None
    mode: ReferenceMode = "auto"

    def __post_init__(self) -> None:
        if self.mode not in get_args(ReferenceMode):
            raise ValueError(f"model.reference.mode = {self.mode!r}; accepted: {', '.join(get_args(ReferenceMode))}")


def _explained(load: Callable[[PolicyConfig], PreTrainedModel]) -> Callable[[PolicyConfig], PreTrainedModel]:
    """Say in one line why a model's files are refused."""

    @functools.wraps(load)
    def explained(config: PolicyConfig) -> PreTrainedModel:
        try:
            return load(config)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"the weights of {config.name_or_path!r} are a pickle file that cannot be read as tensors alone, and "
                "to read it in another way could run any code; accepted: safetensors, or .bin with nothing but tensors"
            ) from error
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise ValueError(
                f"the model {config.name_or_path!r} comes with Python files of its own, which nobody has asked to run: "
                "read them, then set model.policy.trust_remote_code = true (export and generate: --trust-remote-code)"
            ) from error

    return explained


@_explained
def load_causal_lm(config: PolicyConfig) -> PreTrainedModel:
    """Load a Hugging Face causal language model, in train mode, with its adapter in it.

    A folder that holds an adapter stands for its base model with that adapter merged into its weights.
    Weights are read from safetensors first, else from .bin files, as tensors alone.

    Raises:
        FileNotFoundError: nothing of the name `name_or_path`, or of the base model of the adapter that it is, is here
            or on the hub.
        ModuleNotFoundError: `name_or_path` is a short name whose package is not installed, or there is an adapter and
            peft is not.
        ValueError: the weights are a pickle of more than tensors, the model needs code of its own, or the adapter does
            not fit it.
    """
    net = _load_weights(config)
    if config.gradient_checkpointing:
        net.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if config.lora.is_used:
        net = add_adapter(net, config.lora)
    net.train()
    return net


def _load_weights(config: PolicyConfig) -> PreTrainedModel:
    path = resolve(config.name_or_path, config.revision, config.trust_remote_code)
    base = base_of_adapter(path)
    if base is not None:
        name, revision = base
        return merge_adapter(_load_weights(replace(config, name_or_path=name, revision=revision)), path)
    model_config = AutoConfig.from_pretrained(
        path, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    if config.disable_dropout:
        _disable_dropout(model_config)
    net: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path,
        config=model_config,
        revision=config.revision,
        dtype=getattr(torch, config.dtype),
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
        weights_only=True,
    )
    return net


def load_reference(reference: ReferenceConfig, policy: PolicyConfig) -> PreTrainedModel:
    """Load the reference model, frozen and in eval mode; by default a second copy of the policy's starting weights.

    Those are the weights of its base model, and of the adapter that it starts from, if there is one.
    """
    starts_from_adapter = reference.name_or_path is None and policy.lora.adapter is not None
    config = PolicyConfig(
        name_or_path=reference.name_or_path or policy.name_or_path,
        revision=reference.revision if reference.name_or_path else policy.revision,
        dtype=policy.dtype,
        attn_implementation=policy.attn_implementation,
        trust_remote_code=policy.trust_remote_code,
        lora=replace(policy.lora, dropout=0.0) if starts_from_adapter else LoraConfig(),
    )
    net = load_causal_lm(config)
    net.requires_grad_(False)
    net.eval()
    return net


def hide_loading_bars() -> None:
    """Leave out the progress of reading weights from the disk; downloads keep theirs."""
    transformers_logging.disable_progress_bar()
    enable_progress_bars()


def _disable_dropout(config: PretrainedConfig) -> None:
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float) and value:
            setattr(config, name, 0.0)
