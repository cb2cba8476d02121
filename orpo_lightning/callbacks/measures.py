"""The measures of a run that goes on."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from orpo_lightning.loggers import MetricsFile
from orpo_lightning.ranks import together


class KeptMeasures(Callback):
    """Keeps in each checkpoint what was measured of its weights, so that ``metrics.csv`` goes on from there.

    The rows past the checkpoint are of steps that are taken again, and are cut.

    Args:
        file: the logger that writes the file.
    """

    def __init__(self, file: MetricsFile) -> None:
        self.file = file

    def state_dict(self) -> dict[str, Any]:
        """The row of the step that the checkpoint is of: the validation of its weights, if there was one."""
        return {"row": self.file.row}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have the rows before the checkpoint on the disk when it is."""
        self.file.save()

    @together
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Cut the file, and leave out the check of the validation, which Lightning makes where an epoch had ended."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        step, row = checkpoint["global_step"], checkpoint["callbacks"].get(self.state_key, {}).get("row", {})
        if not self.file.has_rows_before(step):
            rank_zero_info(f"{self.file.path} starts at step {step}: the rows of the steps before are not there")
        self.file.go_on_from(step, row if row.get("step") == str(step) else {})
        trainer.num_sanity_val_steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the file; a run may have logged what it starts from by now."""
        if trainer.global_step == 0 and not self.file.row:
            self.file.go_on_from(0, {})
