"""Whether the trainer can take its settings, which it would find out late, or not at all."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

_PROFILERS = ("simple", "advanced", "pytorch", "xla")


def _is_length(value: Any) -> bool:
    return bool(value >= 1 or value == -1)


def _is_part(value: Any) -> bool:
    return bool(0 < value <= 1 if isinstance(value, float) else value >= 1)


def _is_part_or_none(value: Any) -> bool:
    return value == 0 or _is_part(value)


def _is_interval(value: Any) -> bool:
    return not isinstance(value, int | float) or _is_part(value)


def _is_time(value: Any) -> bool:
    return not isinstance(value, str) or bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value.strip()))


_OWN_NAMES = {"FSDPStrategy": "fsdp", "ModelParallelStrategy": "fsdp2"}
"""Of strategies of Lightning's, our own for the same."""
_LENGTH = "1 or more, or -1 for no limit"
_PART = "a number of batches, or a share of them up to 1.0"
_ACCEPTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "accumulate_grad_batches": (lambda value: value >= 1, "1 or more"),
    "check_val_every_n_epoch": (lambda value: value >= 1, "1 or more, or null"),
    "devices": (lambda value: value not in (0, "0", []), "1 or more, a list of devices, -1 or auto for all"),
    "gradient_clip_algorithm": (lambda value: value in ("norm", "value"), "norm, value"),
    "gradient_clip_val": (lambda value: value >= 0, "0 or more, or null"),
    "limit_test_batches": (_is_part_or_none, _PART),
    "limit_train_batches": (_is_part, _PART),
    "limit_val_batches": (_is_part_or_none, _PART),
    "max_epochs": (_is_length, _LENGTH),
    "max_steps": (_is_length, _LENGTH),
    "max_time": (_is_time, "days:hours:minutes:seconds, such as 00:08:00:00"),
    "num_nodes": (lambda value: value >= 1, "1 or more"),
    "num_sanity_val_steps": (lambda value: value >= -1, "0 or more, or -1 for all"),
    "val_check_interval": (_is_interval, "a number of micro-batches, or a share of an epoch up to 1.0"),
}


def check_trainer(trainer: Any) -> None:
    """Insist that the trainer can take its settings.

    Args:
        trainer: the settings.

    Raises:
        ValueError: a value is out of range, or a name unknown; says what is accepted.
    """
    for key, (is_accepted, accepted) in _ACCEPTED.items():
        value = trainer.get(key)
        if value is not None and not is_accepted(value):
            raise ValueError(f"trainer.{key} = {value} is out of range; accepted: {accepted}")
    known = {
        "strategy": ("auto", *StrategyRegistry.available_strategies()),
        "accelerator": ("auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators())),
        "profiler": _PROFILERS,
    }
    for key, names in known.items():
        value = trainer.get(key)
        if isinstance(value, str) and value not in names:
            near = difflib.get_close_matches(value, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"accepted: {', '.join(names)}"
            raise ValueError(f"trainer.{key} = {value} is not known; {hint}")
    _check_strategy(trainer.get("strategy"), trainer.get("accelerator"))
    kinds = ("cuda", "mps") if trainer.get("accelerator") == "gpu" else (trainer.get("accelerator"),)
    if not any(_is_there(kind) for kind in kinds):
        raise ValueError(f"trainer.accelerator = {trainer.accelerator}: there is none here; accepted: cpu, auto")


def _check_strategy(strategy: Any, accelerator: Any) -> None:
    """Refuse strategies of Lightning that leave a model whole, and one that needs GPUs where there are none."""
    path = strategy if isinstance(strategy, str) else getattr(strategy, "class_path", "")
    module, _, name = path.rpartition(".")
    if module.startswith("lightning.") and name in _OWN_NAMES:
        raise ValueError(
            f"trainer.strategy = {name} is Lightning's, which does not know where to share a model out; accepted: "
            f"{_OWN_NAMES[name]}"
        )
    if (path.startswith("fsdp") and path != "fsdp2") or name == "FSDP1Strategy":
        is_there = AcceleratorRegistry["cuda"]["accelerator"].is_available()
        if accelerator == "cpu" or not is_there:
            raise ValueError(f"trainer.strategy = {name} needs GPUs; on CPUs there are fsdp2 and ddp")


def _is_there(kind: Any) -> bool:
    is_named = isinstance(kind, str) and kind in AcceleratorRegistry.available_accelerators()
    return not is_named or bool(AcceleratorRegistry[kind]["accelerator"].is_available())
