"""LoRA adapters: small trained matrices beside the frozen weights of a base model, through peft.

peft is an optional package, imported only where a configuration asks for an adapter.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from orpo_lightning.models.content import check_content
from orpo_lightning.models.damage import DamagedFileError, naming_damage
from orpo_lightning.models.hub import why_not_on_hub
from orpo_lightning.models.quantization import is_in_four_bits

if TYPE_CHECKING:
    from peft import PeftConfig

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PEFT_HELP = "LoRA needs the package peft, which is not installed: pip install 'orpo-lightning[lora]'"


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank adapter; only its weights are trained. With ``r: 0`` and no `adapter` there is none.

    A linear layer ``W x`` becomes ``W x + (alpha / r) B A x``, B starting at 0 (arXiv:2106.09685, eq. 3).

    Args:
        r: rank of B A; 0 = no adapter.
        alpha: strength of the adapter; what multiplies it is ``alpha / r``.
        dropout: of the adapter's inputs. Above 0 the loss depends on how a global batch is split.
        target_modules: which layers: ``all-linear`` (all but the output head), a list of name endings, or a regular
            expression.
        modules_to_save: modules that are trained in full and kept with the adapter, such as ``lm_head``; like the
            adapter in fp32, also where the model's weights are in half precision.
        adapter: folder or hub id of a LoRA adapter that training goes on with; its own rank, strength and layers
            hold, and others given beside it are refused; the dropout is the one given here.

    Example:
        >>> LoraConfig(r=8).is_fresh, LoraConfig(adapter="runs/sft/adapter").is_fresh, LoraConfig().is_used
        (True, False, False)
    """

    r: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    modules_to_save: list[str] = field(default_factory=list)
    adapter: str | None = None

    def __post_init__(self) -> None:
        if self.r < 0:
            raise ValueError(f"model.policy.lora.r = {self.r!r} is out of range; accepted: 1 or more, 0 = no adapter")
        if not self.alpha > 0:
            raise ValueError(f"model.policy.lora.alpha = {self.alpha!r} is out of range; accepted: more than 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.policy.lora.dropout = {self.dropout!r} is out of range; accepted: [0, 1)")
        if not self.target_modules:
            raise ValueError(
                f"model.policy.lora.target_modules = {self.target_modules!r} names no layer; accepted: all-linear, a "
                "list of name endings, a regular expression. For no adapter set model.policy.lora.r = 0"
            )

    @property
    def is_used(self) -> bool:
        """Whether there is an adapter at all."""
        return self.r > 0 or self.adapter is not None

    @property
    def is_fresh(self) -> bool:
        """Whether the adapter starts from nothing, so that the policy starts equal to its base model."""
        return self.r > 0 and self.adapter is None


def add_adapter(net: PreTrainedModel, config: LoraConfig, what: str | None = None) -> PreTrainedModel:
    """Freeze a model and put an adapter into it, new or loaded; returns it as peft's model.

    Args:
        net: the model.
        config: the adapter.
        what: what errors call an adapter that is loaded; None is the setting and its value.

    Raises:
        ModuleNotFoundError: peft is not installed.
        ValueError: the adapter cannot be read, or cannot be put into this model; names the setting.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise ModuleNotFoundError(PEFT_HELP) from None
    _check_names(net, config)
    # peft asks transformers by a name that is going to be removed
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing. is deprecated", FutureWarning)
    if config.adapter is not None:
        source = str(Path(config.adapter).expanduser()) if config.adapter.startswith("~") else config.adapter
        what = what or f"model.policy.lora.adapter = {source!r}"
        own = _read_settings(source, config, what)
        _check_whole(net, own)
        return _load_adapter(net, source, own, what)
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides it by r, whole or not
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        modules_to_save=config.modules_to_save or None,
        task_type=peft.TaskType.CAUSAL_LM,
    )
    _check_whole(net, settings)
    try:
        return _made(net, settings)
    except (ValueError, re.error) as error:
        raise ValueError(f"model.policy.lora.target_modules = {config.target_modules!r}: {error}") from error


def shape_of_adapter(config: LoraConfig) -> LoraConfig:
    """An adapter that starts from nothing and has the weights of the one that is asked for, as far as its rank tells.

    Raises:
        ModuleNotFoundError: an adapter is to be read, and peft is not installed.
        ValueError: it cannot be read.
    """
    if config.adapter is None:
        return config
    settings: Any = _read_settings(config.adapter, config, f"model.policy.lora.adapter = {config.adapter!r}")
    targets = settings.target_modules
    return LoraConfig(
        r=settings.r,
        dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else sorted(targets),
        modules_to_save=list(settings.modules_to_save or []),
    )


def merge_adapter(net: PreTrainedModel, source: str) -> PreTrainedModel:
    """Add the trained adapter of a folder to the weights of its base model; returns the model, all of it trainable.

    Raises:
        ModuleNotFoundError: peft is not installed.
        ValueError: the adapter cannot be read, or does not fit the model.
    """
    adapted = add_adapter(net, LoraConfig(adapter=source), what=f"the adapter in {source!r}")
    merged: PreTrainedModel = cast(Any, adapted).merge_and_unload()
    merged.requires_grad_(True)
    return merged


def without_wrapper(net: nn.Module) -> PreTrainedModel:
    """The Hugging Face model itself, its adapter in its layers, without peft's model around it."""
    return cast(PreTrainedModel, cast(Any, net).get_base_model() if has_adapter(net) else net)


def has_adapter(net: nn.Module) -> bool:
    """Whether a model is peft's."""
    return hasattr(net, "peft_config")


def untrained(module: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """The names in a module's state that training does not change: what a checkpoint need not hold.

    Those are frozen parameters, the scales of those in 4 bits, and everything in a child that has no other ones.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    trained = {name for name, weight in parameters.items() if weight.requires_grad}
    children = {name.partition(".")[0] for name in trained}
    return [
        name
        for name in state
        if name not in trained
        and (name in parameters or _owner(name, parameters) or name.partition(".")[0] not in children)
    ]


def frozen_state(module: nn.Module) -> dict[str, Any]:
    """What a checkpoint does not hold of a module, as the module takes it back."""
    state = module.state_dict()
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {name: state[name] for name in untrained(module, state) if not _owner(name, parameters)}


def _owner(name: str, parameters: Collection[str]) -> str | None:
    """The parameter in 4 bits that a part of a module's state is a scale of."""
    parts = name.split(".")
    owners = (".".join(parts[:end]) for end in range(1, len(parts)))
    return next((owner for owner in owners if owner in parameters), None)


def _check_names(net: PreTrainedModel, config: LoraConfig) -> None:
    """Insist that there is something of every name: peft passes over the others, and would train less than asked."""
    names = [name for name, _ in net.named_modules() if name]
    for wanted in config.modules_to_save:
        if not _is_in(names, wanted):
            raise ValueError(
                f"model.policy.lora.modules_to_save: {type(net).__name__} has no module named {wanted!r}; it has "
                f"{', '.join(sorted(_endings(names) - _numbers(names)))}"
            )
    for wanted in config.target_modules if isinstance(config.target_modules, list) else []:
        if not _is_in(names, wanted):
            linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear | Conv1D)]
            raise ValueError(
                f"model.policy.lora.target_modules = {config.target_modules!r}: {type(net).__name__} has no module "
                f"named {wanted!r}; its linear layers are {', '.join(sorted(_endings(linear)))}"
            )


def _check_whole(net: PreTrainedModel, settings: PeftConfig) -> None:
    """Insist that what an adapter trains in full is not in 4 bits."""
    saved: list[str] = cast(Any, settings).modules_to_save or []
    for name, module in net.named_modules():
        if name.endswith(tuple(saved)) and any(is_in_four_bits(each) for each in module.modules()):
            raise ValueError(
                f"model.policy.lora.modules_to_save: {name!r} is in 4 bits (model.policy.load_in_4bit), and weights in "
                "4 bits are not trained; accepted: modules that stay as they are, such as lm_head, embed_tokens, norms"
            )


def _is_in(names: list[str], wanted: str) -> bool:
    return any(name == wanted or name.endswith("." + wanted) for name in names)


def _endings(names: list[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def _numbers(names: list[str]) -> set[str]:
    return {part for part in _endings(names) if part.isdigit()}


def _made(net: PreTrainedModel, settings: PeftConfig) -> PreTrainedModel:
    import peft

    from orpo_lightning.models.saved_modules import take_over_copies

    adapted: Any = peft.get_peft_model(net, settings)
    take_over_copies(adapted)  # before weights are put into it, which may have been trained in fp32
    return cast(PreTrainedModel, adapted)


def _load_adapter(net: PreTrainedModel, source: str, settings: PeftConfig, what: str) -> PreTrainedModel:
    base = settings.base_model_name_or_path  # peft puts this model's name in its place
    try:
        with naming_damage(what, source), warnings.catch_warnings():
            # the folder that a base model is loaded from need not be the name that the adapter has for it
            warnings.filterwarnings("ignore", r"The PEFT config's `base_model_name_or_path` was renamed")
            adapted = cast(Any, _made(net, settings))
            found = adapted.load_adapter(source, "default", is_trainable=True)
    except DamagedFileError:
        raise
    except OSError as error:  # of the hub's client
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{what}: its weights cannot be had ({reason})") from error
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(_why_not(net, what, base, _one_line(error))) from error
    # peft passes over weights that have no place, and leaves places that have no weights as they are
    strays = [*found.missing_keys, *found.unexpected_keys]
    if strays:
        reason = f"{len(strays)} weights are on one side only, such as {strays[0]}"
        raise ValueError(_why_not(net, what, base, reason))
    return cast(PreTrainedModel, adapted)


def _one_line(error: Exception) -> str:
    """The message of an error; of the many lines of torch on shapes, how many and the first."""
    others = re.findall(r"size mismatch for ([^\s:]+)", str(error))
    if others:
        return f"{len(others)} weights have another shape, such as {others[0]}"
    return f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())


def _why_not(net: PreTrainedModel, what: str, base: str | None, reason: str) -> str:
    advice = "set model.policy.name_or_path to that model" if base != net.name_or_path else "which is not what it was"
    trained = f"It was trained on {base!r}: {advice}" if base else "It does not say what model it was trained on"
    return f"{what} does not fit {type(net).__name__}: {reason.rstrip('.')}. {trained}"


def _read_settings(source: str, config: LoraConfig, what: str) -> PeftConfig:
    import peft

    _check_there(source, what)
    try:
        with naming_damage(what, source):
            settings = peft.PeftConfig.from_pretrained(source)
    except DamagedFileError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{what}: its adapter_config.json cannot be used ({type(error).__name__}: {error})") from error
    if not isinstance(settings, peft.LoraConfig):
        raise ValueError(f"{what} is of the kind {settings.peft_type}; accepted: LORA")
    _check_conflicts(source, config, settings)
    settings.lora_dropout = config.dropout
    settings.inference_mode = False
    return settings


def _check_there(source: str, what: str) -> None:
    """Insist that a folder holds an adapter with its weights, or that the hub has one of that name."""
    folder = Path(source)
    is_path = source.startswith((".", "/")) or source.count("/") > 1 or folder.is_dir()
    reason = None if is_path else why_not_on_hub(source)
    if reason or (is_path and not (folder / "adapter_config.json").is_file()):
        raise ValueError(
            f"{what}: no adapter_config.json is there; accepted: a folder that peft saved an adapter in, or a hub id"
            + (f"; as a hub id: {reason}" if reason else "")
        )
    if is_path and not any((folder / name).is_file() for name in _WEIGHTS):
        raise ValueError(
            f"{what}: the folder holds adapter_config.json, but no weights of an adapter; accepted: "
            f"{' or '.join(_WEIGHTS)}"
        )
    check_content(folder)


def _check_conflicts(source: str, config: LoraConfig, settings: Any) -> None:
    """Insist that what is set beside an adapter is what it has: its own holds, and another would be passed over."""
    own = {
        "r": settings.r,
        "alpha": settings.lora_alpha,
        "target_modules": settings.target_modules,
        "modules_to_save": settings.modules_to_save or [],
    }
    for name, value in own.items():
        given, default = getattr(config, name), getattr(LoraConfig(), name)
        # peft keeps names in a set
        value, given = (sorted(each) if isinstance(each, list | tuple | set) else each for each in (value, given))
        if given not in (default, value):
            raise ValueError(
                f"model.policy.lora.{name} = {given!r}, but the adapter in {source!r} has {value!r}: set "
                f"model.policy.lora.{name} to that, or to {default!r}, which takes the adapter as it is"
            )
