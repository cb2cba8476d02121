"""Early stopping of a run that goes on."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info


class StoppedEarly(Callback):
    """Lets a run that had stopped early when it was interrupted end there, unless it is given more patience now."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the patience of this run into the states that would bring back the old one."""
        for each in trainer.early_stopping_callbacks:
            state = checkpoint["callbacks"].get(each.state_key, {})
            if state.get("patience", each.patience) != each.patience:
                step = checkpoint["global_step"]
                rank_zero_info(
                    f"the patience of EarlyStopping is {each.patience} from step {step} on, and was {state['patience']}"
                )
                state["patience"] = each.patience

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the first step, where the last one decided to."""
        if any(each.wait_count >= max(1, each.patience) for each in trainer.early_stopping_callbacks):
            trainer.should_stop = True
