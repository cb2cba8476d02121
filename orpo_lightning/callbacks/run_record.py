"""What a run is and how it ended, in ``run.json`` and as summary fields in Weights & Biases."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from orpo_lightning.callbacks.health import findings_of
from orpo_lightning.data.datamodule import PreferenceDataModule
from orpo_lightning.models.loading import PolicyConfig
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.objectives import Objective
from orpo_lightning.one_line import in_line
from orpo_lightning.ranks import together
from orpo_lightning.run_folder import RECORD_FILE
from orpo_lightning.secrets import hide
from orpo_lightning.summary.record import RunRecord, Status, read_record, write_record
from orpo_lightning.trainer_parts import data_of
from orpo_lightning.versions import versions


def total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps that are planned; None without an end."""
    total = trainer.estimated_stepping_batches
    return None if total == float("inf") else int(total)


def status_at_end(trainer: Trainer) -> Status:
    """How a fit ended that came to its end: complete, or stopped before its last step."""
    total = total_steps(trainer)
    return "complete" if total is None or trainer.global_step >= total else "stopped"


class RunRecordFile(Callback):
    """Keeps ``run.json``, and gives Weights & Biases the fields that its plots of many runs need.

    These are ``objective``, ``strength``, ``model``, ``parameters`` and ``status``, and ``failure``, why a run failed.
    """

    def __init__(self) -> None:
        self._record: RunRecord | None = None
        self._started = time.perf_counter()
        self._ended: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """What the run took up to a checkpoint, so that one that goes on from there counts on."""
        return {"wall_seconds": self._wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self._started -= state_dict["wall_seconds"]

    @together
    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what is going to run."""
        self._record = _what(trainer, pl_module)
        self._write(trainer, "running", _planned_steps(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what was found to be wrong, for those who look while it runs, and where it is killed."""
        self._note_findings(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        self._note_findings(trainer)

    @together
    @rank_zero_only
    def _note_findings(self, trainer: Trainer) -> None:
        if self._record is not None and len(self._record.health) < len(tuple(findings_of(trainer))):
            self._write(trainer, "running", self._record.total_steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock: a model folder, answers and pictures are not what a training took."""
        self._ended = time.perf_counter()

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that it came to its end."""
        self._write(trainer, status_at_end(trainer), total_steps(trainer))

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note why it failed, or that it was stopped."""
        if self._record is None:
            before = read_record(Path(trainer.default_root_dir) / RECORD_FILE)
            if before is not None and (before.status != "failed" or before.steps):
                return  # of a run that was refused to go on, as it was
            self._record = _what(trainer, pl_module)
        if self._record.status == "complete":  # the training is done, whatever comes of what follows it
            return
        planned = self._record.total_steps
        if isinstance(exception, Exception):
            self._write(trainer, "failed", planned, _reason(exception))
        else:  # a signal, or somebody at the keyboard
            self._write(trainer, "stopped", planned)

    @property
    def _wall_seconds(self) -> float:
        return (time.perf_counter() if self._ended is None else self._ended) - self._started

    def _write(self, trainer: Trainer, status: Status, planned: int | None, reason: str | None = None) -> None:
        assert self._record is not None
        record = replace(
            self._record,
            status=status,
            reason=reason,
            steps=trainer.global_step,
            total_steps=planned,
            wall_seconds=self._wall_seconds,
            health=tuple(findings_of(trainer)),
        )
        self._record = record
        write_record(Path(trainer.default_root_dir) / RECORD_FILE, record)
        fields = {name: getattr(record, name) for name in ("objective", "strength", "model", "parameters", "status")}
        fields["failure"] = reason or ""  # where there is none too: a run that went on has that of before
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(fields)


def _planned_steps(trainer: Trainer) -> int | None:
    """The same before the first step, when asking the trainer would make a resumed run's batches too early."""
    data = data_of(trainer)
    has_end = trainer.max_steps >= 0 or (trainer.max_epochs or -1) >= 0
    return data.total_steps if has_end and isinstance(data, PreferenceDataModule) else None


def _what(trainer: Trainer, pl_module: LightningModule) -> RunRecord:
    objective = getattr(pl_module, "objective", None)
    policy, config = getattr(pl_module, "policy", None), getattr(pl_module, "policy_config", None)
    known: dict[str, Any] = {"objective": type(pl_module).__name__}
    if isinstance(objective, Objective):
        known |= {
            "objective": type(objective).__name__,
            "arguments": objective.arguments(),
            "strength_name": objective.strength_name,
        }
    if isinstance(config, PolicyConfig):
        known["model"] = config.name_or_path
    if isinstance(policy, LogpModel):
        sizes = [(each.numel(), each.requires_grad) for each in policy.parameters()]
        known["parameters"] = sum(size for size, _ in sizes)
        known["trained_parameters"] = sum(size for size, is_trained in sizes if is_trained)
    return RunRecord("running", device=_device(trainer), versions=versions(), **known)


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type} ({platform.processor() or platform.machine()}), {torch.get_num_threads()} threads"
    return f"{trainer.world_size} x {name}"


def _reason(error: Exception) -> str:
    return in_line(" ".join(hide(str(error)).split())) or type(error).__name__
