"""The processes of a run go on from one checkpoint."""

from __future__ import annotations

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from orpo_lightning.ranks import from_all_ranks


class OneCheckpoint(Callback):
    """Refuses a run whose processes were started from outside and have each found something else to go on from.

    Args:
        checkpoint: what this process has found; None where it starts from the beginning.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare; all processes call this, before any loads a model.

        Raises:
            ValueError: they are to go on from different ones, on all of them.
        """
        found = from_all_ranks(str(self.checkpoint) if self.checkpoint else "the beginning")
        if len(set(found)) > 1:
            raise ValueError(
                f"ckpt_path: the processes of this run would go on from different places: {', '.join(found)}, in their "
                "order. It happens where one looks while another run still writes there, or where they do not see the "
                "same disk: start it again, or name one checkpoint with --ckpt_path"
            )
