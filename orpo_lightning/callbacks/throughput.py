"""How fast a run is, how much of the hardware it uses, and how much memory it takes."""

from __future__ import annotations

import math
import time
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from orpo_lightning.callbacks.peak_memory import peak_memory
from orpo_lightning.callbacks.peak_rate import peak_rate
from orpo_lightning.data.timed_loader import TimedLoader
from orpo_lightning.models.work import Counts
from orpo_lightning.modules.preference import PreferenceModule
from orpo_lightning.packing import PackedBatch


@dataclass(frozen=True)
class Done:
    """What was done, over all ranks.

    Args:
        pairs: rows; 0 where the batches are of another kind.
        tokens: tokens that the policy ran on, each prompt counted once.
        flops: floating-point operations that the policy needed for them.
        unshared_flops: those it would have needed with a prompt for each response, where it ran with one for all.
        seconds_waited: time that a rank waited for data, summed over the ranks; NaN where that is not known.
        reference_flops: floating-point operations of a reference that runs beside the policy.
    """

    pairs: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0
    unshared_flops: float = 0.0
    seconds_waited: float = 0.0
    reference_flops: float = 0.0

    def __add__(self, other: Done) -> Done:
        return Done(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    @property
    def saved_by_sharing(self) -> float:
        """Share of the work of responses with a prompt each that is saved where they share it."""
        return 1 - self.flops / self.unshared_flops


@dataclass(frozen=True)
class Totals:
    """What a fit took so far, from where this process began.

    Args:
        steps: optimizer steps.
        seconds: their time, without validation.
        done: what was done in them.
        peak_gb: largest memory of a rank, in 10^9 bytes: of the accelerator if there is one, else of the process.
        peak_flops: floating-point operations per second that the hardware of all ranks can do; 0 where not known.
        ranks: their number.
        busiest_tokens: tokens of the rank that had the most of them in its step, summed over the steps.
    """

    steps: int = 0
    seconds: float = 0.0
    done: Done = Done()
    peak_gb: float | None = None
    peak_flops: float = 0.0
    ranks: int = 1
    busiest_tokens: float = 0.0

    def with_more(self, more: Totals) -> Totals:
        """These and more steps after them; peaks and ranks are those of the latter."""
        return replace(
            more,
            steps=self.steps + more.steps,
            seconds=self.seconds + more.seconds,
            done=self.done + more.done,
            busiest_tokens=self.busiest_tokens + more.busiest_tokens,
        )

    @property
    def measures(self) -> dict[str, float]:
        """What is logged of these steps, by key."""
        found = {"time/step_s": self.seconds / self.steps}
        if self.done.tokens:
            found |= {
                "time/pairs_per_s": self.done.pairs / self.seconds,
                "time/tokens_per_s": self.done.tokens / self.seconds,
            }
        if not math.isnan(self.done.seconds_waited):
            found["time/data_wait_s"] = self.done.seconds_waited / self.ranks / self.steps
        if self.done.flops:
            found |= {
                "work/tflop": self.done.flops / self.steps / 1e12,
                "work/saved_by_sharing": self.done.saved_by_sharing,
                "time/mfu": self.done.flops / self.seconds / self.peak_flops,
            }
        if self.ranks > 1 and self.done.tokens:
            found["work/imbalance"] = self.busiest_tokens * self.ranks / self.done.tokens
        if self.peak_gb is not None:
            found["memory/peak_gb"] = self.peak_gb
        return found

    @property
    def so_far(self) -> dict[str, float]:
        """What is logged of a whole run up to a step, by key: axes to compare runs on at equal cost."""
        found = {"time/total_s": self.seconds}
        if self.done.tokens:
            found |= {"work/total_pairs": self.done.pairs, "work/total_tokens": self.done.tokens}
        if self.done.flops:
            found["work/total_tflop"] = (self.done.flops + self.done.reference_flops) / 1e12
        return found


class Throughput(Callback):
    """Logs time, rates, work and memory of each optimizer step, under ``time/``, ``work/`` and ``memory/``.

    The time of a step runs from the end of the one before, so that it holds the wait for data and the writing of
    checkpoints; a validation in between does not count. All is counted, and logged from, the host.

    Args:
        peak_tflops: 10^12 floating-point operations per second that a device can do, the measure of ``time/mfu``. By
            default what products of matrices reach as the run begins.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        if peak_tflops is not None and not peak_tflops > 0:
            raise ValueError(f"throughput.peak_tflops = {peak_tflops}; accepted: a number above 0, or null")
        self.peak_tflops = peak_tflops
        self.totals = Totals()
        self._run = Totals()
        self._peak_flops = 0.0
        self._start = 0.0
        self._step = 0
        self._done = Done()
        self._waited: tuple[object, float] = None, 0.0
        """A loader, and how long it was waited for when the last step ended."""

    def state_dict(self) -> dict[str, Any]:
        """What the run took up to a checkpoint, so that one that goes on from there counts on."""
        return {"steps": self._run.steps, "seconds": self._run.seconds, "done": list(astuple(self._run.done))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self._run = Totals(state_dict["steps"], state_dict["seconds"], Done(*state_dict["done"]))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count; a run before this one does not count, unless this one goes on from its checkpoint."""
        if trainer.global_step == 0:
            self._run = Totals()
        self.totals, self._step, self._done = Totals(), trainer.global_step, Done()
        self._peak_flops = 0.0
        if isinstance(pl_module, PreferenceModule) and pl_module.policy is not None:
            self._peak_flops = self._find_peak(trainer, pl_module.policy.net.dtype) * trainer.world_size
        self._seconds_waited(trainer)
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
            self._done += self._work_of(batch, pl_module)
        if trainer.global_step == self._step:
            return
        now = time.perf_counter()
        done = self._done + Done(seconds_waited=self._seconds_waited(trainer))
        peak_gb = peak_memory(trainer.strategy.root_device)
        busiest = done.tokens
        if trainer.world_size > 1:
            done, busiest, peak_gb = _over_all_ranks(trainer, done, peak_gb)
        steps, seconds = trainer.global_step - self._step, now - self._start
        taken = Totals(steps, seconds, done, peak_gb, self._peak_flops, trainer.world_size, busiest)
        self._start, self._step, self._done = now, trainer.global_step, Done()
        self.totals, self._run = self.totals.with_more(taken), self._run.with_more(taken)
        # a number that is no tensor yet would be copied to the device, and each copy waits for it
        measures = {
            key: torch.tensor(value, dtype=torch.float64) for key, value in (taken.measures | self._run.so_far).items()
        }
        pl_module.log_dict(measures, on_step=True, on_epoch=False, batch_size=1)

    def _work_of(self, batch: PackedBatch, pl_module: LightningModule) -> Done:
        if not isinstance(pl_module, PreferenceModule) or pl_module.policy is None:
            return Done(batch.real_rows, batch.num_tokens)
        policy, prompt_logps = pl_module.policy, pl_module.objective.needs_prompt_logps
        if policy.size is None:
            return Done(batch.real_rows, batch.num_tokens)
        counts, reference = Counts.of(batch, prompt_logps), pl_module.reference
        needed = unshared = policy.size.flops(counts)
        of_reference = reference.size.forward_flops(counts) if reference is not None and reference.size else 0
        if policy.shares_prompts(batch):
            unshared = policy.size.flops(Counts.without_sharing(batch, prompt_logps))
        return Done(batch.real_rows, batch.num_tokens, needed, unshared, reference_flops=of_reference)

    def _seconds_waited(self, trainer: Trainer) -> float:
        loader, (known, before) = trainer.train_dataloader, self._waited
        total = loader.seconds_waited if isinstance(loader, TimedLoader) else math.nan  # a loader that does not know
        self._waited = loader, total
        return total - before if loader is known else total

    def _find_peak(self, trainer: Trainer, weights: torch.dtype) -> float:
        if self.peak_tflops is not None:
            return self.peak_tflops * 1e12
        device = trainer.strategy.root_device
        with trainer.precision_plugin.forward_context():
            mixed = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if mixed else weights
        return peak_rate(device, dtype)


def _over_all_ranks(trainer: Trainer, done: Done, peak_gb: float | None) -> tuple[Done, float, float | None]:
    """What was done on all of them, the tokens of the one with the most, and the memory of the one with the most."""
    device = trainer.strategy.root_device
    sums = trainer.strategy.reduce(torch.tensor(astuple(done), dtype=torch.float64, device=device), reduce_op="sum")
    peaks = torch.tensor([done.tokens, math.nan if peak_gb is None else peak_gb], dtype=torch.float64, device=device)
    busiest, most_gb = trainer.strategy.reduce(peaks, reduce_op="max").tolist()
    return Done(*sums.tolist()), busiest, None if peak_gb is None else most_gb
