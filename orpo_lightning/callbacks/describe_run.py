"""What a run is, in every logger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from orpo_lightning.data.report import SplitReport
from orpo_lightning.manifest import CONFIG_HASH, config_hash
from orpo_lightning.ranks import together
from orpo_lightning.trainer_parts import data_of
from orpo_lightning.user_loggers import keep_wandb_id


class DescribeRun(Callback):
    """Gives every logger the configuration and what became of the rows of the data, in one call, nested.

    The numbers of the data are under ``data_report``, by split.

    Args:
        config: plain data, as in config.yaml.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    @together
    @rank_zero_only
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Describe the run; its data has been read by now, and no model has been loaded."""
        data = data_of(trainer)
        reports: dict[str, SplitReport] = getattr(data, "reports", {})
        described = dict(self.config)
        if reports:
            described["data_report"] = {name: report.numbers() for name, report in reports.items()}
        for logger in trainer.loggers:
            logger.log_hyperparams(described)
        if stage == "fit":
            keep_wandb_id(trainer.loggers, Path(trainer.default_root_dir))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have checkpoints tell by which configuration they were written."""
        checkpoint[CONFIG_HASH] = config_hash(self.config)
