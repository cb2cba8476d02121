"""How many weights a few steps move in each precision, and what the model learns from them.

A number in bf16 has 8 significant bits: an update of less than 1/512 of a weight is rounded away, and Adam's are about
as large as the learning rate. Under ``bf16-mixed`` the weights are kept in fp32, and small updates add up. The numbers
that it last printed are in docs/scaling.md.

``python benchmarks/precision.py`` trains ORPO on the sample and prints a table.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import torch
from lightning import Trainer, seed_everything
from yardstick.environment import conditions

from orpo_lightning import ORPO, OptimizerConfig, PolicyConfig, PreferenceDataModule, PreferenceModule, ScheduleConfig

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


def start_of(model: str, precision: str) -> torch.Tensor:
    """All weights as a run in a precision begins with them."""
    from orpo_lightning.models.loading import load_causal_lm

    net = load_causal_lm(PolicyConfig(model))
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    return torch.cat([each.detach().to(dtype).flatten() for each in net.parameters()])


def train(model: str, precision: str, rate: float, steps: int) -> tuple[float, float]:
    """The share of the weights that have moved, and the nll of the validation responses, nats/token."""
    seed_everything(0)
    module = PreferenceModule(
        ORPO(),
        policy=PolicyConfig(model),
        optimizer=OptimizerConfig(lr=rate),
        schedule=ScheduleConfig("constant", warmup=0),
    )
    data = PreferenceDataModule(
        train="sample", val="sample", tokenizer=model, global_batch_size=8, limit=8 * steps, max_length=192
    )
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data)
    assert module.policy is not None
    end = torch.cat([each.detach().flatten() for each in module.policy.net.parameters()])
    moved = (end != start_of(model, precision)).double().mean().item()
    return moved, float(trainer.callback_metrics["val/nll_response"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-6, 1e-5])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    print(f"{conditions()}\n{options.model}, {options.steps} steps of ORPO, AdamW\n")
    print("| learning rate | precision | weights that have moved | `val/nll_response` |\n|---|---|---|---|")
    for rate in options.rates:
        for precision in PRECISIONS:
            moved, nll = train(options.model, precision, rate, options.steps)
            print(f"| {rate:g} | {precision} | {moved:.1%} | {nll:.4f} |", flush=True)


if __name__ == "__main__":
    main()
