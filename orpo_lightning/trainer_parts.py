"""Parts of a trainer that Lightning's connectors set on it, where type checkers do not see them."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback


def data_of(trainer: Trainer) -> Any:
    """The data module, which may be one of a user's own; None where there is none."""
    return trainer.datamodule  # type: ignore[attr-defined]  # see above


def val_names_of(trainer: Trainer) -> tuple[str, ...]:
    """The names of the validation sets; that of a single one is empty."""
    names: tuple[str, ...] = getattr(data_of(trainer), "val_names", ("",))
    return names


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks, as a list that may be changed."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # see above
    return callbacks


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Whether the run is a trial of a few batches, which leaves nothing behind."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # see above
