"""What the policy measures before its first step."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


def is_complete(trainer: Trainer) -> bool:
    """Whether the sanity check of a fit goes over all that a validation does."""
    return trainer.num_sanity_val_batches == trainer.num_val_batches


class Baseline(Callback):
    """Logs the measures of a complete sanity check as those of step 0; Lightning logs nothing of one."""

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log them, to all loggers."""
        if not is_complete(trainer):
            return
        values = {name: float(value) for name, value in trainer.logged_metrics.items() if name != "step"}
        for logger in trainer.loggers if values else ():
            logger.log_metrics(values, step=0)
            logger.save()
