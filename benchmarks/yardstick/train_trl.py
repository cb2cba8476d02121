"""TRL's side: its own trainer, in its own environment, with a gate after each optimizer step.

python -m yardstick.train_trl JOB.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from yardstick.gate import Gate
from yardstick.job import BETAS, CLIP, EPSILON, LEARNING_RATE, STRENGTH, Job

TEXTS = ("prompt", "chosen", "rejected")


def main() -> None:
    """Train until the parent says stop."""
    job, gate = Job.read(sys.argv[1]), Gate()
    rows = [json.loads(line) for line in Path(job.rows_file).read_text(encoding="utf-8").splitlines()]
    trainer_class, config_class, options = _KINDS[job.objective]
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    trainer = _recording(trainer_class)(
        model=model,
        args=config_class(**_shared_settings(job), **options),
        train_dataset=Dataset.from_list([{name: row[name] for name in TEXTS} for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(job.model),
    )
    check_tokens(rows, [_tokens_of(row) for row in trainer.train_dataset])
    _record_gradient_norms(trainer)
    trainer.add_callback(AtGate(gate, trainer, job))
    trainer.train()


def _shared_settings(job: Job) -> dict[str, Any]:
    """What our side does, said where TRL's default is another."""
    return {
        "output_dir": job.folder,
        "max_length": job.max_length,
        "beta": STRENGTH,
        "per_device_train_batch_size": job.setting.micro_batch,
        "gradient_accumulation_steps": job.setting.accumulate,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",  # the rows come in their order, grouped or not
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "max_grad_norm": CLIP,
        "gradient_checkpointing": job.setting.checkpointed,
        "bf16": False,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }


_KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "orpo": (ORPOTrainer, ORPOConfig, {"remove_unused_columns": False}),
    "dpo": (DPOTrainer, DPOConfig, {"precompute_ref_log_probs": True}),
}


def _recording(trainer_class: Any) -> Any:
    """The trainer, with the loss of each micro-batch kept: it logs only means over ten steps."""

    class Recording(trainer_class):
        losses: list[torch.Tensor]

        def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*args, **options)
            self.losses.append(loss)
            return loss

    Recording.losses = []
    return Recording


def _record_gradient_norms(trainer: Any) -> None:
    """Keep the norm that clipping measures: the trainer logs that of every tenth step."""
    clip = trainer.accelerator.clip_grad_norm_

    def recording(*args: Any, **options: Any) -> Any:
        trainer.gradient_norm = clip(*args, **options)
        return trainer.gradient_norm

    trainer.accelerator.clip_grad_norm_ = recording


class AtGate(TrainerCallback):
    """Stops at the gate before the first step and after each."""

    def __init__(self, gate: Gate, trainer: Any, job: Job) -> None:
        self.gate = gate
        self.trainer = trainer
        self.micro_batches = job.setting.accumulate

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Wait."""
        control.should_training_stop = not self.gate.open()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Tell of the step, and wait."""
        # each is divided by the accumulation already
        loss = torch.stack(self.trainer.losses).sum()
        self.trainer.losses.clear()
        control.should_training_stop = not self.gate.end_step(
            loss=loss.item(),
            chosen=self._last("logps/chosen"),
            rejected=self._last("logps/rejected"),
            gradient_norm=self.trainer.gradient_norm.item(),
        )

    def _last(self, name: str) -> float:
        kept = getattr(self.trainer, "_stored_metrics", None) or self.trainer._metrics
        values: list[float] = kept["train"][name][-self.micro_batches :]
        return sum(values) / len(values)


def _tokens_of(row: dict[str, Any]) -> dict[str, list[int]]:
    """The tokens of a row, by the names of its texts, out of the tokenized columns of either trainer."""
    if "prompt_ids" in row:
        return {name: row[f"{name}_ids"] for name in TEXTS}
    found = {"prompt": row["prompt_input_ids"]}
    for name in TEXTS[1:]:
        labels = row[f"{name}_labels"]
        start = sum(label == -100 for label in labels)
        assert row[f"{name}_input_ids"][:start] == found["prompt"], "the prompts of a pair differ"
        found[name] = labels[start:]
    return found


def check_tokens(rows: list[dict[str, Any]], found: list[dict[str, list[int]]]) -> None:
    """Insist that TRL made the same tokens of the texts.

    Raises:
        ValueError: it did not; names the rows.
    """
    same = len(rows) == len(found)
    wrong = [
        row["row_id"]
        for row, tokens in zip(rows, found, strict=False)
        if any(tokens[name] != row[f"{name}_ids"] for name in TEXTS)
    ]
    if wrong or not same:
        raise ValueError(f"TRL has {len(found)} rows of {len(rows)}, and other tokens in: {', '.join(wrong) or 'none'}")


if __name__ == "__main__":
    main()
