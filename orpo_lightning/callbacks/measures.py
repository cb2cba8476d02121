"""The measures of a run that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from orpo_lightning.loggers import MetricsFile


class KeptMeasures(Callback):
    """Keeps in each checkpoint what was measured of its weights, so that ``metrics.csv`` goes on from there.

    The rows past the checkpoint are of steps that are taken again, and are cut.

    Args:
        file: the logger that writes the file.
    """

    def __init__(self, file: MetricsFile) -> None:
        self.file = file
        self._row: dict[str, str] = {}

    def state_dict(self) -> dict[str, Any]:
        """The row of the step that the checkpoint is of: the validation of its weights, if there was one."""
        return {"row": self.file.row}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take it back."""
        self._row = dict(state_dict["row"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut the file; a run that begins may have logged what it starts from by now."""
        step = trainer.global_step
        if step or not self.file.row:
            self.file.go_on_from(step, self._row if self._row.get("step") == str(step) else {})
