"""Early stopping of a run that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info


class StoppedEarly(Callback):
    """Lets a run that had stopped early end there again, unless what may have stopped it is set in another way now.

    Args:
        criteria: the settings of each callback that may stop a run, and the others that may, as plain data.
    """

    def __init__(self, criteria: Sequence[Any]) -> None:
        self.criteria = list(criteria)
        self._has_stopped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the run before this one."""
        self._has_stopped = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep whether something has asked to stop."""
        checkpoint["stopped_early"] = {"should_stop": trainer.should_stop, "criteria": self.criteria}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Find out whether it is still to stop, and put the patience of this run into the states."""
        step = checkpoint["global_step"]
        for each in trainer.early_stopping_callbacks:
            state = checkpoint["callbacks"].get(each.state_key, {})
            if state.get("patience", each.patience) != each.patience:
                rank_zero_info(
                    f"the patience of EarlyStopping is {each.patience} from step {step} on, and was {state['patience']}"
                )
                state["patience"] = each.patience
        stopped = checkpoint.get("stopped_early", {})
        if not stopped.get("should_stop"):
            return
        self._has_stopped = all(each in self.criteria for each in stopped["criteria"])
        before = f"the run had stopped early, after {step} steps"
        if self._has_stopped:
            rank_zero_info(
                f"{before}, and ends there; to go on, change or leave out what has stopped it: trainer.callbacks, "
                "trainer.max_time"
            )
        else:
            rank_zero_info(f"{before}, and goes on: trainer.callbacks or trainer.max_time is another now")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the first step, where the run had decided to."""
        trainer.should_stop = trainer.should_stop or self._has_stopped
