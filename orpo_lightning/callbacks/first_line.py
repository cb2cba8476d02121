"""What a run is about, in one line."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info


class FirstLine(Callback):
    """Says what is trained or measured, on what and in which precision, before the first batch."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of a fit."""
        parameters = list(pl_module.parameters())
        every, trained = (
            sum(each.numel() for each in group) for group in (parameters, [p for p in parameters if p.requires_grad])
        )
        size = f"{every:,} parameters" if trained == every else f"{trained:,} of {every:,} parameters"
        rank_zero_info(f"fit: {_subject(pl_module)}; trains {size}; {_machine(trainer)}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of a verb that measures."""
        verb = trainer.state.fn
        if verb is not None and verb != TrainerFn.FITTING:
            weights = f"checkpoint {trainer.ckpt_path}" if trainer.ckpt_path else "no checkpoint, the weights as loaded"
            rank_zero_info(f"{verb.value}: {_subject(pl_module)}; {weights}; {_machine(trainer)}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        self.on_validation_start(trainer, pl_module)


def _subject(module: LightningModule) -> str:
    objective = getattr(module, "objective", None)
    of = getattr(getattr(module, "policy_config", None), "name_or_path", None)
    return " on ".join(str(each) for each in (objective or type(module).__name__, of) if each is not None)


def _machine(trainer: Trainer) -> str:
    device = trainer.strategy.root_device.type
    devices = device if trainer.world_size == 1 else f"{trainer.world_size} x {device}"
    return f"{devices}, {trainer.precision}"
