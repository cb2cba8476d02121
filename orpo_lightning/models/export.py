"""A trained model as an ordinary Hugging Face folder: safetensors, tokenizer, chat template, generation config."""

from __future__ import annotations

import copy
import json
import stat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from orpo_lightning.models.adapters import has_adapter, without_wrapper
from orpo_lightning.models.pretrained import ADAPTER_FILE
from orpo_lightning.models.quantization import dequantized, is_in_four_bits
from orpo_lightning.models.saving import save_model
from orpo_lightning.models.tokenizer import Tokenizer, end_of_turn

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


def write_model(net: nn.Module, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a model and its tokenizer into a folder that is there; a peft adapter is merged into a copy of its layers.

    Args:
        net: a Hugging Face model or a peft model around one. It is not changed.
        tokenizer: with the chat template of the training.
        folder: where to write.
    """
    base = without_wrapper(net)
    weights = merged_state_dict(base) if has_adapter(net) else base.state_dict()
    with torch.device("meta"):
        plain = type(base)(_plain_config(base, weights))
    plain.load_state_dict(weights, assign=True)
    plain.generation_config = generation_config(base, tokenizer)
    save_model(plain, folder)
    tokenizer.save_pretrained(folder)
    _give_ordinary_modes(folder)


def write_adapter(
    net: PreTrainedModel, tokenizer: Tokenizer, folder: Path, base_model: str, revision: str | None = None
) -> None:
    """Write the adapter of a peft model, without its base, and the tokenizer into a folder that is there.

    Args:
        net: a peft model.
        tokenizer: with the chat template of the training.
        folder: where to write.
        base_model: the model that the adapter was trained on, by a name that holds elsewhere.
        revision: branch, tag or commit of the base model.
    """
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # peft names the folder that the base was loaded from, which may be one of a cache
    path = folder / ADAPTER_FILE
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"base_model_name_or_path": base_model, "revision": revision}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    _give_ordinary_modes(folder)


def _give_ordinary_modes(folder: Path) -> None:
    """Let everybody read the files who may read new ones: that of the weights is written for its owner alone."""
    probe = folder / ".mode"
    probe.touch()  # to ask for the umask is to change it, for all threads
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def merged_state_dict(base: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of a model whose layers carry peft adapters as those of the model alone; no layer is changed.

    Each wrapped layer is copied and merged by itself, as peft would merge it in place. One in 4 bits becomes the
    numbers that these stand for, on the CPU.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    merged: dict[str, Tensor] = {}
    wrapped: list[str] = []
    for name, module in base.named_modules():
        if name.startswith(tuple(f"{prefix}." for prefix in wrapped)):
            continue
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            plain = _merged_layer(module, base.dtype)
        elif is_in_four_bits(module):
            plain = dequantized(module, base.dtype)
        else:
            continue
        wrapped.append(name)
        merged |= {f"{name}.{key}": value for key, value in plain.state_dict().items()}
    prefixes = tuple(f"{name}." for name in wrapped)
    return {name: value for name, value in base.state_dict().items() if not name.startswith(prefixes)} | merged


def _merged_layer(wrapper: object, dtype: torch.dtype) -> nn.Module:
    from peft.tuners.lora.layer import Linear

    layer: Any = copy.deepcopy(wrapper)
    if hasattr(layer, "unload_and_optionally_merge_module"):
        plain = layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
    elif is_in_four_bits(layer.get_base_layer()):
        layer.base_layer = dequantized(layer.get_base_layer(), dtype)
        # that of its own class would round what it has merged to 4 bits
        Linear.merge(layer.to("cpu"))
        plain = layer.get_base_layer()
    else:
        layer.merge()
        plain = layer.get_base_layer()
    assert isinstance(plain, nn.Module)
    return plain


def _plain_config(base: PreTrainedModel, weights: dict[str, Tensor]) -> PretrainedConfig:
    config: PretrainedConfig = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # an adapter on one of the two embeddings pulls tied ones apart
    for name, source in (base.all_tied_weights_keys or {}).items():
        if name in weights and source in weights and not torch.equal(weights[name], weights[source]):
            config.tie_word_embeddings = False
    return config


def generation_config(net: PreTrainedModel, tokenizer: Tokenizer) -> GenerationConfig:
    """The model's own generation config with the end tokens of the training, and a padding token in any case."""
    config = copy.deepcopy(net.generation_config) or GenerationConfig()
    config._from_model_config = False  # else transformers may derive it anew from the model's config
    ends = end_tokens(net, tokenizer)
    config.eos_token_id = ends if len(ends) > 1 else ends[0]
    if tokenizer.pad_token_id is not None:
        config.pad_token_id = tokenizer.pad_token_id
    elif config.pad_token_id is None:
        config.pad_token_id = tokenizer.eos_token_id
    if not config.do_sample:  # these have no effect then, and transformers saves no config that has them
        for name in _SAMPLING:
            setattr(config, name, None)
    return config


def end_tokens(net: PreTrainedModel, tokenizer: Tokenizer) -> list[int]:
    """The tokens that end a response: first the one that ended them in training, then those that the model had."""
    own = getattr(net.generation_config, "eos_token_id", None)
    known = own if isinstance(own, list) else [own]
    return list(
        dict.fromkeys(token for token in (end_of_turn(tokenizer), tokenizer.eos_token_id, *known) if token is not None)
    )
