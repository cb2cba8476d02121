"""What a fit is about, in one line."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info


class FirstLine(Callback):
    """Says what is trained, on what and in which precision, before the first step."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        parameters = list(pl_module.parameters())
        every, trained = (
            sum(each.numel() for each in group) for group in (parameters, [p for p in parameters if p.requires_grad])
        )
        objective = getattr(pl_module, "objective", None)
        of = getattr(getattr(pl_module, "policy_config", None), "name_or_path", None)
        what = " on ".join(str(each) for each in (objective or type(pl_module).__name__, of) if each is not None)
        size = f"{every:,} parameters" if trained == every else f"{trained:,} of {every:,} parameters"
        device = trainer.strategy.root_device.type
        devices = device if trainer.world_size == 1 else f"{trainer.world_size} x {device}"
        rank_zero_info(f"fit: {what}; trains {size}; {devices}, {trainer.precision}")
