"""Our side: a fit of Lightning with a gate after each optimizer step.

python -m yardstick.train_ours JOB.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from orpo_lightning import (
    DPO,
    ORPO,
    Objective,
    OptimizerConfig,
    PolicyConfig,
    PreferenceModule,
    ReferenceConfig,
    ScheduleConfig,
)
from orpo_lightning.data.batching import step_info
from orpo_lightning.models.work import Counts
from orpo_lightning.packing import PackedBatch, pack
from orpo_lightning.records import TokenizedRow
from yardstick.gate import Gate
from yardstick.job import BETAS, CLIP, EPSILON, LEARNING_RATE, STRENGTH, Job
from yardstick.rows import ChosenRows


def main() -> None:
    """Train until the parent says stop."""
    job, gate = Job.read(sys.argv[1]), Gate()
    seed_everything(0)
    module = PreferenceModule(
        objective_of(job),
        policy=PolicyConfig(job.model, gradient_checkpointing=job.setting.checkpointed),
        reference=ReferenceConfig(mode="cached"),
        optimizer=OptimizerConfig(lr=LEARNING_RATE, options={"betas": BETAS, "eps": EPSILON}),
        schedule=ScheduleConfig("constant", warmup=0),
    )
    trainer = Trainer(
        max_epochs=1,
        devices=1,
        precision="32-true",
        gradient_clip_val=CLIP,
        default_root_dir=job.folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[AtGate(gate, job)],
    )
    trainer.fit(module, ChosenRows(job))


def objective_of(job: Job) -> Objective:
    """The objective, with the mean of the likelihood that TRL takes."""
    if job.objective == "dpo":
        return DPO(beta=STRENGTH)
    return ORPO(lambda_=STRENGTH, nll_mean="sequences" if job.nll_mean == "sequences" else "tokens")


class AtGate(Callback):
    """Stops at the gate before the first step and after each."""

    def __init__(self, gate: Gate, job: Job) -> None:
        self.gate = gate
        self.job = job

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the loss of TRL's first step where ours is not the same, and wait."""
        assert isinstance(pl_module, PreferenceModule)
        loss = None
        if not self.job.is_same_loss:
            rows = trainer.datamodule.rows["train"][: self.job.setting.pairs]
            loss = mean_of_micro_batches(pl_module, rows, self.job.setting.micro_batch)
        trainer.should_stop = not self.gate.open(loss=loss)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PackedBatch, batch_idx: int
    ) -> None:
        """Tell of the step, and wait."""
        assert isinstance(pl_module, PreferenceModule)
        found = trainer.callback_metrics
        kind = "logps" if self.job.objective == "dpo" else "logps_mean"  # what TRL's trainers log
        trainer.should_stop = not self.gate.end_step(
            loss=found["train/loss"].item(),
            chosen=found[f"train/{kind}/chosen"].item(),
            rejected=found[f"train/{kind}/rejected"].item(),
            gradient_norm=found["train/grad_norm"].item(),
            useful_flops=flops_of(pl_module, batch),
        )
        if self.gate.is_counting:  # other kernels than the blocks, as on CUDA, count as the square of the whole stream
            assert pl_module.policy is not None
            pl_module.policy.kernels = replace(pl_module.policy.kernels, attention="blocks")


@torch.no_grad()
def mean_of_micro_batches(module: PreferenceModule, rows: Sequence[TokenizedRow], size: int) -> float:
    """The loss of a step that is a mean over the means of its micro-batches, as TRL's ORPO is."""
    losses = []
    for start in range(0, len(rows), size):
        members = rows[start : start + size]
        batch = pack(members, step_info(members)).to(module.device)
        losses.append(module.objective(module.policy_logps(batch), None).loss.mean())
    return torch.stack(losses).mean().item()


def flops_of(module: PreferenceModule, batch: PackedBatch) -> int:
    """Floating-point operations that a step needs, from the closed form; each thing once.

    Args:
        module: what is trained.
        batch: all pairs of the step.
    """
    assert module.policy is not None
    return module.policy.size.flops(Counts.of(batch, module.objective.needs_prompt_logps))


if __name__ == "__main__":
    main()
