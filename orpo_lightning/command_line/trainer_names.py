"""Whether the names that the trainer looks up are there."""

from __future__ import annotations

import difflib
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

_PROFILERS = ("simple", "advanced", "pytorch", "xla")


def check_names(trainer: Any) -> None:
    """Insist that a strategy, an accelerator or a profiler that is named is one.

    Args:
        trainer: the settings of the trainer.

    Raises:
        ValueError: it is none; says which there are.
    """
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
