"""What `orpo-lightning estimate` says that a step needs, beside what the steps of such a run take.

    python benchmarks/peak_memory.py

Each configuration is trained for two steps on the sample in processes of its own. What is measured is the largest
resident memory of the process during these steps, less what it had before its model was loaded; the loading itself,
where a file and the weights are there together, is left out. The process has one arena for its memory and gives back
what it frees (MALLOC_ARENA_MAX, MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_): what an allocator holds back is of no
model, and not in the estimate. The numbers that it last printed are in docs/scaling.md.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from yardstick.environment import ROOT, conditions

SIGN = "peak above the baseline, bytes: "
UNITS = {"MiB": 2**20, "GiB": 2**30}
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SHARED = ["--config", "quickstart", "--data.val=null"]
OF_FIT = [
    *("--trainer.max_steps=2", "--trainer.num_sanity_val_steps=0", "--trainer.enable_checkpointing=false"),
    *("--summary.prompts=0", "--export.enabled=false", "--trainer.callbacks=peak_memory.PeakOfSteps"),
]
MODELS: dict[str, dict[str, int]] = {
    "opt": {},  # OPT-125M
    "llama": {"vocab_size": 16_000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12},
}
"""Settings of models with random weights, by their type."""
ON_TWO = ("--trainer.accelerator=cpu", "--trainer.devices=2")

CASES: dict[str, tuple[str, ...]] = {
    "smollm2, ORPO, all weights, 32-true": (),
    "smollm2, DPO with a live reference, an adapter, bf16-true, 2 pairs": (
        *("--model.objective=DPO", "--model.policy.lora.r=16", "--trainer.precision=bf16-true"),
        "--data.global_batch_size=2",
    ),
    "smollm2, DPO, an adapter on weights in 4 bits that compute in bf16, 2 pairs": (
        *("--model.objective=DPO", "--model.policy.lora.r=16", "--model.policy.load_in_4bit=true"),
        *("--model.policy.dtype=bfloat16", "--data.global_batch_size=2"),
    ),
    "a random OPT-125M, ORPO, gradient checkpointing, 32-true, 2 micro-batches": (
        *("--model.policy.name_or_path=opt", "--model.policy.gradient_checkpointing=true"),
        "--trainer.accumulate_grad_batches=2",
    ),
    "a random OPT-125M, ORPO, gradient checkpointing, 32-true, DDP": (
        *("--model.policy.name_or_path=opt", "--model.policy.gradient_checkpointing=true", *ON_TWO),
        "--trainer.strategy=ddp",
    ),
    "a random OPT-125M, ORPO, gradient checkpointing, 32-true, FSDP2": (
        *("--model.policy.name_or_path=opt", "--model.policy.gradient_checkpointing=true", *ON_TWO),
        "--trainer.strategy=fsdp2",
    ),
    "a random Llama of 55M, ORPO, bf16-mixed, FSDP2, 2 micro-batches of up to 96 tokens a row": (
        *("--model.policy.name_or_path=llama", "--trainer.precision=bf16-mixed", "--trainer.strategy=fsdp2", *ON_TWO),
        *("--trainer.accumulate_grad_batches=2", "--data.global_batch_size=4", "--data.max_length=96"),
    ),
}
"""Options over the quickstart's, by what they are; DDP and FSDP2 are of two processes (gloo)."""


@dataclass(frozen=True)
class Comparison:
    """An estimate beside what was measured, bytes."""

    estimated: float
    measured: float

    @property
    def ratio(self) -> float:
        """How many times as much as measured was estimated."""
        return self.estimated / self.measured


class PeakOfSteps(Callback):
    """Prints the largest memory of the training steps, less that from before the model was loaded."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note where it starts: the model is loaded after this."""
        self._before = resident("VmRSS")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Forget what loading has taken."""
        if batch_idx == 0:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it."""
        print(f"\n{SIGN}{resident('VmHWM') - self._before}", flush=True)


def resident(name: str) -> int:
    """Bytes of this process, as Linux calls them."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    """Print a line for each configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, help="one of the configurations")
    options = parser.parse_args()
    print("| | estimate, GiB | measured, GiB | estimate / measured |\n|---|---|---|---|")
    for name in CASES if options.only is None else [options.only]:
        found = compare(name)
        print(
            f"| {name} | {found.estimated / 2**30:.2f} | {found.measured / 2**30:.2f} | {found.ratio:.2f} |", flush=True
        )
    print(f"\n{conditions()}")


def compare(name: str) -> Comparison:
    """The estimate of a configuration, and what was measured."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for model in MODELS:
            if f"--model.policy.name_or_path={model}" in CASES[name]:
                make_model(model, folder / model)
        return Comparison(estimated(CASES[name], folder), measured(CASES[name], folder))


def make_model(name: str, folder: Path) -> None:
    """A model of this shape with random weights, and a tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from orpo_lightning.models.tokenizer import load_tokenizer

    AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **MODELS[name])).save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)


def estimated(options: Sequence[str], folder: Path) -> float:
    """What the command says."""
    said = run_verb("estimate", [*SHARED, *options], folder)
    found = re.search(r"all together +([\d.,]+) (\w+)", said)
    assert found is not None, said
    return float(found[1].replace(",", "")) * UNITS[found[2]]


def measured(options: Sequence[str], folder: Path) -> float:
    """What a fit takes, in the process that takes most."""
    said = run_verb("fit", [*SHARED, *options, *OF_FIT, "--trainer.default_root_dir=run"], folder)
    return max(float(each) for each in re.findall(rf"{SIGN}(\d+)", said))


def run_verb(verb: str, options: list[str], folder: Path) -> str:
    """What a verb prints in a folder; ends with it where it fails."""
    environment = {**os.environ, **ALLOCATOR, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
    ended = subprocess.run(
        [sys.executable, "-m", "orpo_lightning", verb, *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ended.returncode:
        sys.exit(f"{verb} {' '.join(options)}:\n{ended.stdout}")
    return ended.stdout


if __name__ == "__main__":
    main()
