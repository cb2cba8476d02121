"""When a fit validates."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from orpo_lightning.trainer_parts import data_of


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


def check_validation_interval(trainer: Trainer, steps_per_epoch: int) -> None:
    """Refuse an interval that no epoch has, or that depends on how fast the machine is.

    Args:
        trainer: that of the fit.
        steps_per_epoch: its optimizer steps per epoch.

    Raises:
        ValueError: names the interval and what it can be. Lightning says so too, but after the log-probabilities of a
            reference are computed.
    """
    if not hasattr(trainer, "val_check_interval"):  # Lightning keeps a time elsewhere
        raise ValueError(
            "trainer.val_check_interval is a time, which no run that goes on could repeat; accepted: a number of "
            "micro-batches, or a share of an epoch up to 1.0"
        )
    interval, batches = trainer.val_check_interval, steps_per_epoch * trainer.accumulate_grad_batches
    if isinstance(interval, int) and interval > batches and trainer.check_val_every_n_epoch is not None:
        raise ValueError(
            f"trainer.val_check_interval = {interval} is more than the {batches} micro-batches of an epoch; "
            f"accepted: 1 to {batches}, or set trainer.check_val_every_n_epoch = null to count over epochs"
        )


class ValidateAtEnd(Callback):
    """Has Lightning validate after the last step of a fit, also where its interval or its epoch is not over then."""

    def __init__(self) -> None:
        self._interval: tuple[int | None, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the interval as one micro-batch, where a run goes on amid the validation after its last step."""
        if trainer.global_step >= data_of(trainer).total_steps:
            self._interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
            trainer.check_val_every_n_epoch, trainer.val_check_batch = None, 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The same for the one time that Lightning looks at it after the last step."""
        self.on_train_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give it back."""
        if self._interval is not None:
            trainer.check_val_every_n_epoch, trainer.val_check_batch = self._interval
            self._interval = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same, where there was nothing to validate."""
        self.on_validation_start(trainer, pl_module)
