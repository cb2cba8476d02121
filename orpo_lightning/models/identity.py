"""What a model is recognised by: its weights, and the settings that it computes with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from orpo_lightning.models.adapters import has_adapter, without_wrapper
from orpo_lightning.models.hub import snapshot_of
from orpo_lightning.models.loading import PolicyConfig
from orpo_lightning.models.weight_files import content_of

_NOT_ARITHMETIC = (
    *("drop", "attn_implementation", "transformers_version", "use_cache", "gradient_checkpointing", "dtype"),
    *("name_or_path", "auto_map", "architectures", "token_id", "2label", "label2", "output_", "return_dict"),
)
"""Parts of the names of settings that change no logits, at any depth."""
_OF_ADAPTERS = (
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
    *("lora_bias", "layer_replication"),
)


def fingerprint(weights: torch.nn.Module | Mapping[str, Tensor]) -> str:
    """A hash of all weights and their names, to recognise a model by; of weights in parts all processes call this.

    Example:
        >>> fingerprint(torch.nn.ReLU())
        'e3b0c44298fc1c14'
    """
    state = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        digest.update(whole.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def name_without_adapter(name: str) -> str:
    """The name that a weight of a peft model has in the model that the adapter was put into.

    Example:
        >>> name_without_adapter("base_model.model.lm_head.modules_to_save.default.weight")
        'lm_head.weight'
    """
    for part in (".base_layer.", ".original_module.", ".modules_to_save.default."):
        name = name.replace(part, ".")
    return name.removeprefix("base_model.model.")


def is_of_adapter(name: str) -> bool:
    """Whether a weight of a peft model belongs to its adapter, by its name."""
    return ".lora_" in name or ".modules_to_save." in name


def base_weights(net: nn.Module) -> dict[str, Tensor]:
    """The weights of a model under the names, and with the values, that they have without its adapter.

    Example:
        >>> list(base_weights(nn.Linear(2, 2)))
        ['weight', 'bias']
    """
    if not has_adapter(net):
        return net.state_dict()
    return {
        name_without_adapter(name): tensor
        for name, tensor in without_wrapper(net).state_dict().items()
        if not is_of_adapter(name)
    }


def fingerprint_of_base(
    config: PolicyConfig, net: PreTrainedModel, content: Callable[[Path, str | None], Mapping[str, str]] = content_of
) -> str:
    """That of the weights below an adapter: of those in 4 bits, which devices round in their own ways, in their files.

    Args:
        config: how the model was loaded.
        net: the model with its adapter.
        content: looks at the files, in this process alone or together with the others.

    Raises:
        As :func:`~orpo_lightning.models.weight_files.content_together`.
    """
    if not config.load_in_4bit:
        return fingerprint(base_weights(net))
    path = without_wrapper(net).config.name_or_path
    assert path is not None
    folder = Path(path) if Path(path).is_dir() else snapshot_of(path, config.revision)
    found = content(folder, getattr(without_wrapper(net).config, "transformers_weights", None))
    # of another dtype they are rounded to others
    return hashlib.sha256(f"{config.dtype} {sorted(found.items())}".encode()).hexdigest()[:16]


def fingerprint_on(base: str | None, net: nn.Module) -> str:
    """That of a model, of one with an adapter by what is in that and the fingerprint of what is below.

    Args:
        base: the latter; None where there is no adapter.
        net: the model.

    Example:
        >>> fingerprint_on(None, torch.nn.ReLU()) == fingerprint(torch.nn.ReLU())
        True
    """
    if base is None:
        return fingerprint(net)
    above = {name: each for name, each in net.state_dict().items() if is_of_adapter(name)}
    return hashlib.sha256(f"{base} {fingerprint(above)}".encode()).hexdigest()[:16]


def base_settings(net: PreTrainedModel) -> dict[str, Any]:
    """What a model computes with beside its weights, without its adapter, as plain data.

    Example:
        >>> from orpo_lightning.models.tiny import tiny_model
        >>> base_settings(tiny_model("llama"))["rms_norm_eps"]
        1e-06
    """
    return _plain(dict(_flat(without_wrapper(net).config.to_dict())))


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if any(part in str(name) for part in _NOT_ARITHMETIC):
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", each) for inner, each in _flat(value))
        else:
            yield str(name), value


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def settings_of(net: PreTrainedModel) -> dict[str, Any]:
    """The same of a model with its adapter, if it has one."""
    if not has_adapter(net):
        return base_settings(net)
    adapter = cast(Any, net).peft_config["default"].to_dict()
    return base_settings(net) | _plain({f"adapter.{name}": adapter[name] for name in _OF_ADAPTERS if name in adapter})


def architecture(settings: Mapping[str, Any]) -> str:
    """A hash of the settings of a model: equal weights under another rotary base are another model.

    Example:
        >>> architecture({"rope_theta": 10000.0}) == architecture({"rope_theta": 20000.0})
        False
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def check_base(saved: str | None, found: str | None) -> None:
    """Insist that a checkpoint without frozen weights goes on with those it was trained on.

    Args:
        saved: fingerprint of the base model in the checkpoint; None if the run had no adapter.
        found: the same of this run.

    Raises:
        ValueError: they differ; says what to set.
    """
    if saved == found:
        return
    if found is None:
        raise ValueError(
            "the checkpoint is of a run with a LoRA adapter, this run has none: set model.policy.lora as it was"
        )
    if saved is None:
        raise ValueError(
            "the checkpoint is of a run without an adapter, this run has one: set model.policy.lora.r = 0. To train an "
            "adapter from those weights, start from them as a model"
        )
    raise ValueError(
        f"the checkpoint holds an adapter of another base model (its weights have the fingerprint {saved}, these have "
        f"{found}): set model.policy.name_or_path, model.policy.dtype, model.policy.load_in_4bit and, of a base "
        "in 4 bits, the format of its files to what they were"
    )


def check_settings(saved: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Insist that a checkpoint goes on with a model that computes as the one that it was trained from did.

    Settings that only one of the two has are those of another version of transformers or peft, and are passed over.

    Args:
        saved: the settings of the model in the checkpoint.
        found: the same of this run.

    Raises:
        ValueError: they differ; names the first.

    Example:
        >>> check_settings({"rope_theta": 10000.0}, {"rope_theta": 10000.0, "new_in_this_version": None})
    """
    changed = sorted(name for name in saved.keys() & found.keys() if saved[name] != found[name])
    if changed:
        name = changed[0]
        raise ValueError(
            f"the model was trained with {name} = {saved[name]!r} and now has {found[name]!r}: its config or the "
            "settings of its adapter have changed since; put them back"
        )
