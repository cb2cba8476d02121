"""The account of the data beside the measures of a run."""

from __future__ import annotations

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from orpo_lightning.data.report import SplitReport, write_reports
from orpo_lightning.ranks import together
from orpo_lightning.run_folder import DATA_REPORT_FILE
from orpo_lightning.trainer_parts import data_of, is_fast_dev_run


class DataReport(Callback):
    """Writes what became of every row to ``data_report.json`` in the run folder."""

    @together
    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, whole or not at all."""
        data = data_of(trainer)
        reports: dict[str, SplitReport] = getattr(data, "reports", {})
        if not reports or is_fast_dev_run(trainer):
            return
        write_reports(Path(trainer.default_root_dir) / DATA_REPORT_FILE, reports)
