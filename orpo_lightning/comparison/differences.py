"""The settings in which runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orpo_lightning.comparison.runs import Run

SEEDS = frozenset({"seed_everything", "data.seed"})
"""What differs between repeats of a run."""
_PLACES = frozenset({"trainer.default_root_dir", "ckpt_path"})
NOT_A_SETTING = "(not a setting)"
"""Stands for the value of a setting that a run does not have, such as an argument of another objective."""


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The values of each setting that is not the same in all runs, in their order; where a run is kept does not count.

    Args:
        runs: to compare.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: [run.settings.get(key, NOT_A_SETTING) for run in runs] for key in keys if key not in _PLACES}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def group_repeats(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in groups that differ by nothing but their seed, in the order of their first runs.

    Args:
        runs: to group.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        left = {key: value for key, value in run.settings.items() if key not in SEEDS | _PLACES}
        groups.setdefault(repr(sorted(left.items())), []).append(run)
    return list(groups.values())
