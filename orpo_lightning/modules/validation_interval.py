"""When a fit validates."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn


def is_complete(trainer: Trainer) -> bool:
    """Whether the validation that runs is one of all the data: Lightning's check at the start of a fit need not be, and
    where a run goes on, it is of weights that have been validated.
    """
    if not trainer.sanity_checking:
        return True
    return trainer.global_step == 0 and trainer.num_sanity_val_batches == trainer.num_val_batches


def is_still_to_come(trainer: Trainer) -> bool:
    """Whether a batch has just been trained on, and a validation follows: callbacks of a user's own save before it."""
    loop = trainer.fit_loop.epoch_loop
    batches: Any = loop.batch_progress.current
    fetcher = trainer.fit_loop._data_fetcher
    return batches.processed > batches.completed and fetcher is not None and loop._should_check_val_fx(fetcher)


def check_validation_interval(trainer: Trainer, steps_per_epoch: int, has_data: bool) -> None:
    """Refuse an interval that no epoch has, and say so where a run ends before its first validation.

    Args:
        trainer: that of the fit.
        steps_per_epoch: its optimizer steps per epoch.
        has_data: whether there is validation data.

    Raises:
        ValueError: names the interval and what it can be. Lightning says so too, but after the log-probabilities of a
            reference are computed.
    """
    interval, batches = trainer.val_check_interval, steps_per_epoch * trainer.accumulate_grad_batches
    in_epochs = trainer.check_val_every_n_epoch is not None
    if has_data and interval in (1.0, None) and in_epochs and 0 <= trainer.max_steps < steps_per_epoch:
        rank_zero_warn(
            f"no validation will run: it comes after an epoch of {steps_per_epoch} steps, and trainer.max_steps is "
            f"{trainer.max_steps}; set trainer.val_check_interval to a number of micro-batches"
        )
    if isinstance(interval, int) and interval > batches and in_epochs:
        raise ValueError(
            f"trainer.val_check_interval = {interval} is more than the {batches} micro-batches of an epoch; "
            f"accepted: 1 to {batches}, or set trainer.check_val_every_n_epoch = null to count over epochs"
        )
