"""Options that would set, in every trial, what a sweep varies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from orpo_lightning.sweep.command import options_of
from orpo_lightning.sweep.distributions import Distribution

_CLASS = re.compile(r"(?!(null|true|false)$)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(?<!\.yaml)(?<!\.yml)")
"""A class alone: settings of it that were made before stay."""
_LEFT_OUT = {"class_path", "init_args", "dict_kwargs"}
"""Parts of the whole name of a setting that are mostly left out."""


def overruled(words: Sequence[str], parameters: Mapping[str, Distribution]) -> tuple[str, str] | None:
    """The first option that the parameters of a trial do not outlive where it stands behind them, and which it is.

    A class alone changes no setting of it, and a setting of a class that is varied by its name alone is the same in all
    trials: both are let through, and so are files of settings, which options win over wherever they stand.

    Args:
        words: of a command line.
        parameters: what is varied, by name.

    Example:
        >>> from orpo_lightning.sweep.distributions import Choice
        >>> beta = {"model.objective.beta": Choice((0.1, 0.5))}
        >>> overruled(["--data.limit=8", "--model.objective.beta", "0.3"], beta)
        ('--model.objective.beta', 'model.objective.beta')
        >>> overruled(["--model.objective=DPO"], beta) is None
        True
    """
    for option, value in options_of(words):
        key = _parts(option.removeprefix("--"))
        for name, distribution in parameters.items():
            varied = _parts(name)
            if key == varied != ("config",):
                return option, name
            is_parent = varied[: len(key)] == key != varied
            is_child = key[: len(varied)] == varied != key
            if (is_parent and not _CLASS.fullmatch(value)) or (is_child and not distribution.is_of_classes):
                return option, name
    return None


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part for part in key.split(".") if part not in _LEFT_OUT)
