"""A step that was not taken, taken again: in one process, from the weights that it would have started from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from orpo_lightning.models.identity import check_settings, settings_of
from orpo_lightning.modules.failed_step import FailedStep
from orpo_lightning.modules.finite import NonFiniteError, Scored
from orpo_lightning.modules.preference import PreferenceModule
from orpo_lightning.packing import PackedBatch
from orpo_lightning.records import TokenizedRow


@dataclass(frozen=True)
class ReplayedRow:
    """What a value of the loss came to.

    Args:
        row_id: its row.
        loss: the value.
        seen: what it is a function of, by name.
    """

    row_id: str
    loss: float
    seen: Mapping[str, float]

    @property
    def is_finite(self) -> bool:
        """Whether all of it is."""
        return all(map(math.isfinite, (self.loss, *self.seen.values())))


@dataclass(frozen=True)
class Replay:
    """What the step came to.

    Args:
        error: what the module stopped with; None where it did not.
        device: the kind of device that it was taken on.
        rows: the values of the loss; those of rows of weight 0 are left out.
        loss: of the global batch.
        gradient_norm: before it is clipped.
        gradients: names of the parameters that have a gradient, in the order of the network.
        bad_gradients: those whose gradient is not finite.
        bad_weights: those that were not finite before the step.
        rows_of_bad_gradients: where all values are finite and the gradient is not, the rows whose own gradient is not;
            none where the objective looks across the rows.
    """

    error: NonFiniteError | None
    device: str
    rows: tuple[ReplayedRow, ...]
    loss: float
    gradient_norm: float
    gradients: tuple[str, ...]
    bad_gradients: tuple[str, ...]
    bad_weights: tuple[str, ...]
    rows_of_bad_gradients: tuple[str, ...] = ()

    @property
    def values(self) -> Mapping[str, float]:
        """What has to be finite, as errors call it."""
        return {"the loss": self.loss, "the gradient norm": self.gradient_norm}


def replay(module: PreferenceModule, failed: FailedStep, saved: dict[str, Any], accelerator: str = "auto") -> Replay:
    """Take a step again, as a fit would: forward and backward, and the check before the optimizer steps.

    Args:
        module: as the configuration makes it.
        failed: the step.
        saved: the checkpoint with the weights from before it.
        accelerator: where to compute, as the trainer calls it.

    Raises:
        ValueError: the weights do not fit the module.
    """
    measuring = _Measuring(saved)
    error = _take(module, failed, measuring, accelerator)
    found = measuring.measured
    if found["bad_gradients"] and all(row.is_finite for row in found["rows"]) and not module.objective.couples_pairs:
        by_row = _RowByRow(saved)
        _take(module, failed.row_by_row(), by_row, accelerator)
        found["rows_of_bad_gradients"] = tuple(by_row.bad)
    return Replay(error, measuring.device, **found)


def _take(module: PreferenceModule, failed: FailedStep, start: _Start, accelerator: str) -> NonFiniteError | None:
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=failed.precision,  # type: ignore[arg-type]  # it is the name that a trainer gave
        max_epochs=1,
        max_steps=failed.step + 1,
        accumulate_grad_batches=len(failed.micro_batches),
        callbacks=[start],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    # before its first step, a module insists that it starts from its reference
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = failed.step
    try:
        trainer.fit(module, _Step(failed))
    except NonFiniteError as error:
        return error
    return None


class _Step(LightningDataModule):
    """The micro-batches of one step, as all that an epoch has."""

    steps_per_epoch = 1

    def __init__(self, failed: FailedStep) -> None:
        super().__init__()
        self._failed = failed

    @property
    def total_steps(self) -> int:
        return self._failed.step + 1

    @property
    def rows(self) -> Mapping[str, list[TokenizedRow]]:
        return {"train": [row for each in self._failed.micro_batches for row in each.rows]}

    @property
    def longest(self) -> int:
        return max(len(row.prompt) + max(len(each.ids) for each in row.responses) for row in self.rows["train"])

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        batches: Any = self._failed.packed()
        return DataLoader(batches, batch_size=None)

    def val_dataloader(self) -> list[DataLoader[PackedBatch]]:
        return []


class _Start(Callback):
    """Puts the weights from before the step into the module."""

    def __init__(self, saved: dict[str, Any]) -> None:
        self._saved = saved

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, PreferenceModule)
        assert pl_module.policy is not None
        check_settings(self._saved["policy"]["settings"], settings_of(pl_module.policy.net))
        # a reference that is the policy's starting weights has been made ready by now
        pl_module.take_state(self._saved)
        pl_module.load_state_dict(self._saved["state_dict"])


class _Measuring(_Start):
    """Keeps what the step comes to, before the optimizer takes it."""

    def __init__(self, saved: dict[str, Any]) -> None:
        super().__init__(saved)
        self.measured: dict[str, Any] = {}
        self.device = ""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert isinstance(pl_module, PreferenceModule)
        self.device = pl_module.device.type
        gradients = _gradients(pl_module)
        self.measured = {
            "rows": tuple(row for each in pl_module.scored for row in _rows(each)),
            "loss": pl_module.measures["loss"].item(),
            "gradient_norm": torch.nn.utils.get_total_norm(gradients.values()).item(),
            "gradients": tuple(gradients),
            "bad_gradients": _not_finite(gradients),
            "bad_weights": _not_finite(dict(pl_module.named_parameters())),
        }


class _RowByRow(_Start):
    """Finds the micro-batches, of a row each, whose own gradient is not finite."""

    def __init__(self, saved: dict[str, Any]) -> None:
        super().__init__(saved)
        self.bad: list[str] = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, PreferenceModule)
        if _not_finite(_gradients(pl_module)):
            self.bad += pl_module.scored[-1].batch.row_ids
        pl_module.zero_grad()


def _rows(scored: Scored) -> list[ReplayedRow]:
    columns = {name: values.tolist() for name, values in scored.seen.items()}
    weights = scored.batch.weight[scored.groups].tolist()
    return [
        ReplayedRow(row_id, loss, {name: values[i] for name, values in columns.items()})
        for i, (row_id, loss, weight) in enumerate(zip(scored.row_ids, scored.loss.tolist(), weights, strict=True))
        if weight
    ]


def _gradients(module: LightningModule) -> dict[str, Tensor]:
    return {name: each.grad for name, each in module.named_parameters() if each.grad is not None}


def _not_finite(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
