"""Loading of causal language models from the configuration."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from huggingface_hub.utils.tqdm import enable_progress_bars
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.utils import logging as transformers_logging

from orpo_lightning.models.adapters import LoraConfig, add_adapter, merge_adapter, shape_of_adapter
from orpo_lightning.models.attention.choice import AttentionKernelName
from orpo_lightning.models.compilation import compile_layers
from orpo_lightning.models.content import check_content, check_content_together
from orpo_lightning.models.damage import naming_damage
from orpo_lightning.models.head_kernels import HeadKernelName
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.layers import decoder_layers
from orpo_lightning.models.load_report import check_found, without_report
from orpo_lightning.models.pretrained import base_of_adapter, resolve
from orpo_lightning.models.quantization import four_bits, keep_numbers
from orpo_lightning.ranks import fail_together

Dtype = Literal["float64", "float32", "bfloat16", "float16"]
ReferenceMode = Literal["auto", "copy", "adapter", "cached"]
_Loaded = TypeVar("_Loaded", PreTrainedModel, PretrainedConfig)


@dataclass(frozen=True)
class PolicyConfig:
    """The model that is trained.

    Args:
        name_or_path: ``tiny`` (a small random Llama made on the spot), ``smollm2`` (SmolLM2-135M-Instruct), a folder
            of a model, of an adapter (merged into its base model) or of a run, a checkpoint file, or a hub id.
        revision: branch, tag or commit of a hub id.
        dtype: of the weights.
        attn_implementation: attention of transformers for generation and the padded layout; None is its default.
        attention_kernel: kernel of the packed layout. ``blocks`` runs everywhere; ``flex`` (FlexAttention) and
            ``varlen`` (flash attention for sequences of uneven lengths, in half precision) need CUDA and an A100 or
            later; ``auto`` is the first that can of varlen, flex and blocks. Which one is fastest has not been
            measured yet.
        head_kernel: kernel of the log-probabilities. ``blocks`` runs everywhere; ``liger`` (liger-kernel) needs CUDA
            and the extra ``liger``, and waits for the device twice in each micro-batch. The padded layout uses neither.
        gradient_checkpointing: compute each layer's activations again in the backward pass instead of keeping them.
        compile_layers: compile the decoder's layers (torch.compile). Training, validation and a reference are compiled
            apart, each once for all lengths; a step then takes less memory, and on a CPU as long as without, after
            seconds to minutes of compilation. On a CPU it needs a C++ compiler.
        disable_dropout: set every dropout of the model to 0. With dropout the loss depends on how a global batch is
            split.
        trust_remote_code: run the Python files that come with a model whose architecture transformers does not know.
        load_in_4bit: hold the frozen weights of the linear layers below an adapter in 4 bits (NF4) and compute in
            `dtype`; needs the extra ``bitsandbytes``. On a CPU it is slow; on a GPU it has not been run so far.
        lora: the adapter that is trained in place of the model's own weights; with ``r: 0`` there is none.
    """

    name_or_path: str = "tiny"
    revision: str | None = None
    dtype: Dtype = "float32"
    attn_implementation: str | None = None
    attention_kernel: AttentionKernelName = "auto"
    head_kernel: HeadKernelName = "blocks"
    gradient_checkpointing: bool = False
    compile_layers: bool = False
    disable_dropout: bool = True
    trust_remote_code: bool = False
    load_in_4bit: bool = False
    lora: LoraConfig = LoraConfig()

    def __post_init__(self) -> None:
        _ = self.kernels  # refuses unknown names
        if self.compile_layers and self.gradient_checkpointing:
            raise ValueError(
                "model.policy.compile_layers and model.policy.gradient_checkpointing are both true, but torch runs "
                "layers that it checkpoints as they are written: set one of them to false"
            )

        if self.load_in_4bit and not self.lora.is_used:
            raise ValueError(
                "model.policy.load_in_4bit = true, but there is no adapter, and weights in 4 bits are not trained: set "
                "model.policy.lora.r"
            )

    @property
    def kernels(self) -> Kernels:
        """The kernels of the packed layout."""
        return Kernels(self.attention_kernel, self.head_kernel)

    @property
    def has_dropout(self) -> bool:
        """Whether training may draw random numbers, so that the policy need not equal itself in eval mode."""
        return not self.disable_dropout or self.lora.dropout > 0


@dataclass(frozen=True)
class ReferenceConfig:
    """The frozen model that an objective compares the policy with. There is none for objectives that need none.

    Args:
        name_or_path: a model, as in :class:`PolicyConfig`; None is the policy's starting weights.
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


def _explained(load: Callable[..., _Loaded]) -> Callable[..., _Loaded]:
    """Say in one line why a model's files are refused."""

    @functools.wraps(load)
    def explained(config: PolicyConfig, path: str, *others: Any) -> _Loaded:
        try:
            with naming_damage(f"the model {config.name_or_path!r}", path):
                return load(config, path, *others)
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise ValueError(
                f"the model {config.name_or_path!r} comes with Python files of its own, which nobody has asked to run: "
                "read them, then set model.policy.trust_remote_code = true (export and generate: --trust-remote-code)"
            ) from error

    return explained


def load_causal_lm(config: PolicyConfig) -> PreTrainedModel:
    """Load a Hugging Face causal language model, in train mode, with its adapter in it.

    A folder that holds an adapter stands for its base model with that adapter merged into its weights.
    Weights are read from safetensors first, else from .bin files, as tensors alone.

    Args:
        config: the model.

    Raises:
        FileNotFoundError: nothing of the name `name_or_path`, or of the base model of the adapter that it is, is here
            or on the hub.
        ModuleNotFoundError: `name_or_path` is a short name whose package is not installed, or there is an adapter and
            peft is not.
        ValueError: weights are missing, of another shape, damaged or a pickle of more than tensors, the model needs
            code of its own, or the adapter does not fit it.
    """
    return finish_loading(read_base(config), config)


def load_together(config: PolicyConfig) -> PreTrainedModel:
    """The same by all processes of a group: each holds its share of the files against what was written.

    Raises:
        As :func:`load_causal_lm`, in all of them what one of them raises.
    """
    place = _place_together(config)
    return fail_together(lambda: finish_loading(_read_whole(place), config))


def read_base(config: PolicyConfig) -> PreTrainedModel:
    """The model below the adapter of a policy.

    Raises:
        As :func:`load_causal_lm`.
    """
    place = _place_of(config)
    check_content(Path(place.path))
    return _read_whole(place)


def finish_loading(net: PreTrainedModel, config: PolicyConfig) -> PreTrainedModel:
    """What a model gets besides the weights that are read, an adapter among it; returns it in train mode.

    Raises:
        ModuleNotFoundError: there is an adapter, and peft is not installed.
        ValueError: the adapter does not fit the model, or its layers cannot be compiled.
    """
    if config.gradient_checkpointing:
        net.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if config.lora.is_used:
        net = add_adapter(net, config.lora)
    if config.compile_layers:
        compile_layers(net)
    net.train()
    return net


def read_in_parts(config: PolicyConfig, processes: int) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A model without its weights, and of each weight the part of this process, by its name in the model.

    The parts are those of :func:`torch.distributed.fsdp.fully_shard`, along the first dimension. Weights are whole
    where there is one process, and where they have to be computed: those of a folder that holds an adapter.

    Args:
        config: the model; its adapter is not made.
        processes: that are in the process group, and all call this.

    Raises:
        As :func:`load_causal_lm`, in all of them what one of them raises.
    """
    place = _place_together(config)
    if processes == 1 or place.adapters:
        net = fail_together(lambda: _read_whole(place))
        return net, _weights_of(net)
    with torch.device("meta"):
        net = fail_together(lambda: _of_config(config, place.path))
    plan = {re.sub(r"\.\d+", ".*", name): "free_full_weight" for name in decoder_layers(net)}
    shared_out = DistributedConfig(fsdp_size=processes, fsdp_plan=plan)
    parts = fail_together(lambda: _read_weights(config, place.path, shared_out))
    for name, buffer in parts.named_buffers():
        module, _, own_name = name.rpartition(".")
        net.get_submodule(module)._buffers[own_name] = buffer
    net.generation_config = parts.generation_config
    return net, _weights_of(parts)


def load_without_weights(config: PolicyConfig) -> PreTrainedModel:
    """A model with its adapter, of random weights: to be called where these take no memory.

    Of a folder or hub id nothing is read but the settings.

    Raises:
        As :func:`load_causal_lm`, of what has nothing to do with weights.
    """
    place = _place_of(config)
    lora = shape_of_adapter(config.lora) if config.lora.is_used else config.lora
    net = _of_config(place.config, place.path)
    if config.load_in_4bit:
        quantization = four_bits(getattr(torch, config.dtype))
        from orpo_lightning.models.four_bits_without_values import in_four_bits

        in_four_bits(net, quantization)
    # what torch.compile would save is not known before it has run
    return finish_loading(net, replace(config, lora=lora, compile_layers=False))


def _of_config(config: PolicyConfig, path: str) -> PreTrainedModel:
    """The model that its settings describe, with random weights."""
    net: PreTrainedModel = AutoModelForCausalLM.from_config(
        _config_to_train(config, path),
        dtype=getattr(torch, config.dtype),
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
    )
    return net


def _weights_of(net: PreTrainedModel) -> dict[str, Tensor]:
    """By all of their names: an adapter may pull tied ones apart."""
    return {name: weight.detach() for name, weight in net.named_parameters(remove_duplicate=False)}


@dataclass(frozen=True)
class _Place:
    """Where a model is.

    Args:
        config: the model; of an adapter, that below it.
        path: its folder or hub id.
        adapters: the folders of those that are to be merged into it, one after the other.
    """

    config: PolicyConfig
    path: str
    adapters: tuple[str, ...] = ()


def _place_of(config: PolicyConfig) -> _Place:
    path = resolve(config.name_or_path, config.revision, config.trust_remote_code)
    with naming_damage(f"the model {config.name_or_path!r}", path):
        base = base_of_adapter(path)
    if base is None:
        return _Place(config, path)
    if config.load_in_4bit:
        raise ValueError(
            f"model.policy.load_in_4bit = true, but {config.name_or_path!r} is an adapter, and cannot be merged "
            "into weights in 4 bits: export it with --merge-adapter first, or set model.policy.lora.adapter to it"
        )
    name, revision = base
    below = _place_of(replace(config, name_or_path=name, revision=revision))
    return replace(below, adapters=(*below.adapters, path))


def _place_together(config: PolicyConfig) -> _Place:
    """The same in all processes, which together insist that its files are those that were written."""
    place = fail_together(lambda: _place_of(config))
    check_content_together(Path(place.path))
    return place


def _read_whole(place: _Place) -> PreTrainedModel:
    return functools.reduce(merge_adapter, place.adapters, _read_weights(place.config, place.path))


@_explained
def read_config(config: PolicyConfig, path: str) -> PretrainedConfig:
    """The settings of the model in a folder or of a hub id."""
    found: PretrainedConfig = AutoConfig.from_pretrained(
        path, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    return found


def _config_to_train(config: PolicyConfig, path: str) -> PretrainedConfig:
    model_config = read_config(config, path)
    if config.disable_dropout:
        _disable_dropout(model_config)
    return model_config


@_explained
def _read_weights(config: PolicyConfig, path: str, parts: DistributedConfig | None = None) -> PreTrainedModel:
    """The model with its weights.

    Args:
        config: the model.
        path: its folder or hub id.
        parts: how its weights are shared out; None reads them whole.
    """
    with without_report():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=_config_to_train(config, path),
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attn_implementation,
            trust_remote_code=config.trust_remote_code,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused here, by name
            distributed_config=parts,
            quantization_config=four_bits(getattr(torch, config.dtype)) if config.load_in_4bit else None,
        )
    net, found = loaded
    check_found(config.name_or_path, net, found)
    keep_numbers(net)
    return cast(PreTrainedModel, net)


def reference_policy(reference: ReferenceConfig, policy: PolicyConfig) -> PolicyConfig:
    """How the reference is loaded; by default a second copy of the policy's starting weights.

    Those are the weights of its base model, and of the adapter that it starts from, if there is one.
    """
    starts_from_adapter = reference.name_or_path is None and policy.lora.adapter is not None
    return PolicyConfig(
        name_or_path=reference.name_or_path or policy.name_or_path,
        revision=reference.revision if reference.name_or_path else policy.revision,
        dtype=policy.dtype,
        attn_implementation=policy.attn_implementation,
        compile_layers=policy.compile_layers,
        trust_remote_code=policy.trust_remote_code,
        load_in_4bit=policy.load_in_4bit and starts_from_adapter,
        lora=replace(policy.lora, dropout=0.0) if starts_from_adapter else LoraConfig(),
    )


def hide_loading_bars() -> None:
    """Leave out the progress of reading weights from the disk; downloads keep theirs."""
    transformers_logging.disable_progress_bar()
    enable_progress_bars()


def _disable_dropout(config: PretrainedConfig) -> None:
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float) and value:
            setattr(config, name, 0.0)
