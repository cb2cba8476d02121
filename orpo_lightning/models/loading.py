"""Loading of causal language models from the configuration."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from huggingface_hub.utils.tqdm import enable_progress_bars
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from orpo_lightning.models.adapters import LoraConfig, add_adapter, merge_adapter
from orpo_lightning.models.attention.choice import AttentionKernelName
from orpo_lightning.models.compilation import compile_layers
from orpo_lightning.models.damage import naming_damage
from orpo_lightning.models.head_kernels import HeadKernelName
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.pretrained import base_of_adapter, resolve

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
    lora: LoraConfig = LoraConfig()

    def __post_init__(self) -> None:
        _ = self.kernels  # refuses unknown names
        if self.compile_layers and self.gradient_checkpointing:
            raise ValueError(
                "model.policy.compile_layers and model.policy.gradient_checkpointing are both true, but torch runs "
                "layers that it checkpoints as they are written: set one of them to false"
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


def _explained(load: Callable[[PolicyConfig, str], _Loaded]) -> Callable[[PolicyConfig, str], _Loaded]:
    """Say in one line why a model's files are refused."""

    @functools.wraps(load)
    def explained(config: PolicyConfig, path: str) -> _Loaded:
        try:
            with naming_damage(f"the model {config.name_or_path!r}", path):
                return load(config, path)
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

    Raises:
        FileNotFoundError: nothing of the name `name_or_path`, or of the base model of the adapter that it is, is here
            or on the hub.
        ModuleNotFoundError: `name_or_path` is a short name whose package is not installed, or there is an adapter and
            peft is not.
        ValueError: weights are missing, of another shape, damaged or a pickle of more than tensors, the model needs
            code of its own, or the adapter does not fit it.
    """
    net = _load_weights(config)
    if config.gradient_checkpointing:
        net.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if config.lora.is_used:
        net = add_adapter(net, config.lora)
    if config.compile_layers:
        compile_layers(net)
    net.train()
    return net


def _load_weights(config: PolicyConfig) -> PreTrainedModel:
    path = resolve(config.name_or_path, config.revision, config.trust_remote_code)
    with naming_damage(f"the model {config.name_or_path!r}", path):
        base = base_of_adapter(path)
    if base is not None:
        name, revision = base
        return merge_adapter(_load_weights(replace(config, name_or_path=name, revision=revision)), path)
    return _read_weights(config, path)


@_explained
def read_config(config: PolicyConfig, path: str) -> PretrainedConfig:
    """The settings of the model in a folder or of a hub id."""
    found: PretrainedConfig = AutoConfig.from_pretrained(
        path, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    return found


@_explained
def _read_weights(config: PolicyConfig, path: str) -> PreTrainedModel:
    model_config = read_config(config, path)
    if config.disable_dropout:
        _disable_dropout(model_config)
    with _without_report():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=model_config,
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attn_implementation,
            trust_remote_code=config.trust_remote_code,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused here, by name
        )
    net, found = loaded
    _check_weights(config.name_or_path, net, found)
    return cast(PreTrainedModel, net)


def _check_weights(name: str, net: PreTrainedModel, found: Mapping[str, Any]) -> None:
    """Insist that every weight has been read: transformers makes random ones in place of those that are missing."""
    missing = sorted(found["missing_keys"] & dict(net.named_parameters(remove_duplicate=False)).keys())
    if missing:
        raise ValueError(
            f"the model {name!r} lacks {len(missing)} of the weights of {type(net).__name__}, such as "
            f"{', '.join(missing[:3])}: copy or download it again, or look whether it is of this architecture"
        )
    others = sorted(found["mismatched_keys"])
    if others:
        weight, saved, wanted = others[0]
        raise ValueError(
            f"the model {name!r} has {len(others)} weights of another shape than its config.json says, such as "
            f"{weight}: {list(saved)} in the file, {list(wanted)} in {type(net).__name__}"
        )
    strays = sorted(found["unexpected_keys"])
    if strays:
        warnings.warn(
            f"the model {name!r} has {len(strays)} weights that {type(net).__name__} has no place for, such as "
            f"{', '.join(strays[:3])}: they are left out",
            stacklevel=2,
        )


@contextmanager
def _without_report() -> Iterator[None]:
    """Leave out transformers' table of weights that are missing or too many, which is said in one line here."""

    def is_news(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        # of weights that could not be converted nothing else tells
        return "LOAD REPORT" not in message or "CONVERSION" in message

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


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
        compile_layers=policy.compile_layers,
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
