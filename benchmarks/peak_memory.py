"""What `orpo-lightning estimate` says that a step needs, beside what the steps of such a run take.

    python benchmarks/peak_memory.py

Each configuration is trained for two steps on the sample in a process of its own. What is measured is the largest
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


CASES: dict[str, tuple[str, ...]] = {
    "smollm2, ORPO, all weights, 32-true": (),
    "smollm2, DPO with a live reference, an adapter, bf16-true, 2 pairs": (
        *("--model.objective=DPO", "--model.policy.lora.r=16", "--trainer.precision=bf16-true"),
        "--data.global_batch_size=2",
    ),
    "a random OPT-125M, ORPO, gradient checkpointing, 32-true, 2 micro-batches": (
        *("--model.policy.name_or_path=opt", "--model.policy.gradient_checkpointing=true"),
        "--trainer.accumulate_grad_batches=2",
    ),
}
"""Options over the quickstart's, by what they are."""


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
        self._before = _resident("VmRSS")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Forget what loading has taken."""
        if batch_idx == 0:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it."""
        print(f"\n{SIGN}{_resident('VmHWM') - self._before}", flush=True)


def _resident(name: str) -> int:
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
        if "OPT" in name:
            make_opt(folder / "opt")
        return Comparison(estimated(CASES[name], folder), measured(CASES[name], folder))


def make_opt(folder: Path) -> None:
    """A model of the shape of OPT-125M with random weights, and a tokenizer."""
    from transformers import OPTConfig, OPTForCausalLM

    from orpo_lightning.models.tokenizer import load_tokenizer

    OPTForCausalLM(OPTConfig()).save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)


def estimated(options: Sequence[str], folder: Path) -> float:
    """What the command says."""
    said = _run("estimate", [*SHARED, *options], folder)
    found = re.search(r"all together +([\d.,]+) (\w+)", said)
    assert found is not None, said
    return float(found[1].replace(",", "")) * UNITS[found[2]]


def measured(options: Sequence[str], folder: Path) -> float:
    """What a fit takes."""
    said = _run("fit", [*SHARED, *options, *OF_FIT, "--trainer.default_root_dir=run"], folder)
    (line,) = (line for line in said.splitlines() if line.startswith(SIGN))
    return float(line.removeprefix(SIGN))


def _run(verb: str, options: list[str], folder: Path) -> str:
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
