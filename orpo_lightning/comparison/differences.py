"""The settings in which runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from orpo_lightning.comparison.runs import Run

SEEDS = frozenset({"seed_everything", "data.seed"})
"""What differs between repeats of a run."""
_PLACES = frozenset({"trainer.default_root_dir", "ckpt_path"})
_BESIDE_TRAINING = (
    *("summary.", "export.", "checkpoint.", "throughput.", "trainer.logger", "trainer.enable_"),
    *("trainer.log_every_n_steps", "trainer.accelerator", "trainer.devices", "trainer.num_nodes"),
    *("trainer.val_check_interval", "trainer.check_val_every_n_epoch"),
)
"""How the keys of settings begin that change no step of a training."""
NOT_A_SETTING = "(not a setting)"
"""Stands for the value of a setting that a run does not have, such as an argument of another objective."""


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The values of each setting that is not the same in all runs; where a run is kept does not count.

    They are in the order of the runs, those that change no step of a training last.

    Args:
        runs: to compare.
    """
    keys = sorted(dict.fromkeys(key for run in runs for key in run.settings), key=is_beside_training)
    values = {key: [run.settings.get(key, NOT_A_SETTING) for run in runs] for key in keys if key not in _PLACES}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def is_beside_training(key: str) -> bool:
    """Whether a setting changes no step of a training, but what is measured, kept or shown of it.

    Example:
        >>> is_beside_training("summary.report"), is_beside_training("model.optimizer.lr")
        (True, False)
    """
    return key.startswith(_BESIDE_TRAINING)


@dataclass(frozen=True)
class Group:
    """Runs that differ by nothing but their seed.

    Args:
        runs: one of each seed; never none.
        copies: the further ones of a seed that was there before, which tell nothing new.
    """

    runs: tuple[Run, ...]
    copies: tuple[Run, ...]


def group_repeats(runs: Sequence[Run]) -> list[Group]:
    """The runs in groups that differ in training by nothing but their seed, in the order of their first runs.

    Their data is the same too, and they ended in the same way: a run that was stopped is no repeat of one that went to
    its end. A run that kept no settings is in a group of its own.

    Args:
        runs: to group.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = repr((_without_seed(run), run.data_report, run.record.status)) if run.settings else run.name
        groups.setdefault(key, []).append(run)
    return [_group(each) for each in groups.values()]


def changed_data(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs whose settings are equal but for the seed, and whose data is not, in groups.

    Args:
        runs: to group.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.settings:
            groups.setdefault(repr(_without_seed(run)), []).append(run)
    return [each for each in groups.values() if any(run.data_report != each[0].data_report for run in each)]


def _without_seed(run: Run) -> list[tuple[str, Any]]:
    kept = (item for item in run.settings.items() if item[0] not in SEEDS | _PLACES and not is_beside_training(item[0]))
    return sorted(kept, key=itemgetter(0))


def _group(runs: Sequence[Run]) -> Group:
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(repr([run.settings.get(key) for key in sorted(SEEDS)]), run)
    kept = tuple(first.values())
    return Group(kept, tuple(run for run in runs if run not in kept))
