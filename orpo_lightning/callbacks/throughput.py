"""How fast a run is, and how much memory it takes."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from orpo_lightning.packing import PackedBatch


@dataclass(frozen=True)
class Totals:
    """What a fit took so far, from where this process began.

    Args:
        steps: optimizer steps.
        seconds: their time, without validation.
        pairs: rows, over all ranks; 0 where the batches are of another kind.
        tokens: tokens that the policy ran on, over all ranks.
        peak_gb: largest memory of a rank, in 10^9 bytes: of the accelerator if there is one, else of the process.
    """

    steps: int = 0
    seconds: float = 0.0
    pairs: float = 0.0
    tokens: float = 0.0
    peak_gb: float | None = None

    def __add__(self, later: Totals) -> Totals:
        return Totals(
            self.steps + later.steps,
            self.seconds + later.seconds,
            self.pairs + later.pairs,
            self.tokens + later.tokens,
            later.peak_gb,
        )


class Throughput(Callback):
    """Logs ``time/step_s``, ``time/pairs_per_s``, ``time/tokens_per_s`` and ``memory/peak_gb`` for each optimizer step.

    The time of a step runs from the end of the one before, so that it holds the wait for data and the writing of
    checkpoints; a validation in between does not count.
    """

    def __init__(self) -> None:
        self.totals = Totals()
        self._start = 0.0
        self._step = 0
        self._counts = torch.zeros(2, dtype=torch.long)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self.totals, self._step = Totals(), trainer.global_step
        self._counts = torch.zeros(2, dtype=torch.long, device=trainer.strategy.root_device)
        self._start = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock; before the first step it does not run."""
        self._start -= time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        self._start += time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a micro-batch, and log what an optimizer step took."""
        if isinstance(batch, PackedBatch):
            rows = batch.weight.count_nonzero()
            self._counts += torch.stack([rows, rows.new_tensor(batch.num_tokens)])
        if trainer.global_step == self._step:
            return
        counts = trainer.strategy.reduce(self._counts.float(), reduce_op="sum")
        peak = peak_memory(trainer.strategy.root_device)
        if peak is not None:
            peak = float(trainer.strategy.reduce(counts.new_tensor(peak), reduce_op="max"))
        now = time.perf_counter()
        seconds, steps = now - self._start, trainer.global_step - self._step
        self._start, self._step = now, trainer.global_step
        self._counts.zero_()
        pairs, tokens = counts.tolist()
        self.totals += Totals(steps, seconds, pairs, tokens, peak)
        values = {"time/step_s": seconds / steps}
        if tokens:
            values |= {"time/pairs_per_s": pairs / seconds, "time/tokens_per_s": tokens / seconds}
        if peak is not None:
            values["memory/peak_gb"] = peak
        pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)


def peak_memory(device: torch.device) -> float | None:
    """The most memory that this process has taken, in 10^9 bytes; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
