"""What it takes to load a model whole and in parts, and to export a checkpoint that two processes have written.

    python benchmarks/loading_memory.py

Each is done in processes of its own (the parts in two of them, gloo), with a random OPT-125M whose file is in fp32, and
which is loaded in bf16: else a model that is read whole would stay in its file until it is used. What is measured is
the most that a process has of its own meanwhile (RssAnon, looked at every millisecond), less what it had before, over
the bytes of the weights. Pages of files do not count: the system takes them back where others need the memory. The
numbers that it last printed are in docs/scaling.md.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from peak_memory import ALLOCATOR, ON_TWO, SHARED, make_model, resident, run_verb
from yardstick.environment import ROOT, conditions

SIGN = "peak above what was there, bytes: "
OF_CHECKPOINT = [
    *("--config", "trainer/fsdp2", *ON_TWO, "--model.policy.name_or_path=opt", "--trainer.precision=32-true"),
    *("--trainer.max_steps=1", "--trainer.num_sanity_val_steps=0", "--data.global_batch_size=2", "--data.limit=4"),
    *("--summary.prompts=0", "--export.enabled=false", "--trainer.default_root_dir=run"),
]


def load_whole(folder: Path) -> None:
    """In one process."""
    from orpo_lightning.models.loading import PolicyConfig, load_causal_lm

    load_causal_lm(PolicyConfig(str(folder / "opt"), dtype="bfloat16"))


def load_parts(folder: Path) -> None:
    """In each of two."""
    from torch.distributed.device_mesh import init_device_mesh

    from orpo_lightning.models.loading import PolicyConfig
    from orpo_lightning.models.logp_model import LogpModel
    from orpo_lightning.models.sharding import ShardedBuilder

    ShardedBuilder(init_device_mesh("cpu", (2,)))(PolicyConfig(str(folder / "opt"), dtype="bfloat16"), LogpModel)


def export(folder: Path) -> None:
    """In one process, of what two have written."""
    from orpo_lightning.models.checkpoint import export_checkpoint, read_checkpoint

    (folder / "exported").mkdir()
    export_checkpoint(read_checkpoint(folder / "run"), folder / "exported")


TASKS: dict[str, tuple[Callable[[Path], None], int, int]] = {
    "loaded whole": (load_whole, 1, 2),
    "loaded in two parts, each process": (load_parts, 2, 2),
    "exported from a sharded checkpoint": (export, 1, 4),
}
"""What is done, in how many processes, and the bytes of a weight meanwhile."""


def main() -> None:
    """Print a line for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task is not None:
        _measure(TASKS[options.task][0], options.folder)
        return
    print("| | peak over what was there, GiB | of the bytes of the model |\n|---|---|---|")
    for name, (peak, ratio) in peaks().items():
        print(f"| {name} | {peak / 2**30:.2f} | {ratio:.2f} |", flush=True)
    print(f"\n{conditions()}")


def peaks() -> dict[str, tuple[int, float]]:
    """Of each task the most that a process took, bytes, and how many times the bytes of the weights."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model("opt", folder / "opt")
        run_verb("fit", [*SHARED, *OF_CHECKPOINT], folder)
        weights = sum(file.stat().st_size for file in (folder / "opt").glob("*.safetensors"))
        found = {task: _peak_of(task, processes, folder) for task, (_, processes, _) in TASKS.items()}
    return {task: (peak, peak / (weights * TASKS[task][2] / 4)) for task, peak in found.items()}


def _peak_of(task: str, processes: int, folder: Path) -> int:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    ended = subprocess.run(
        [sys.executable, *launch, __file__, "--task", task, "--folder", str(folder)],
        env={**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ended.returncode:
        sys.exit(f"{task}:\n{ended.stdout}")
    return max(int(each) for each in re.findall(rf"{SIGN}(\d+)", ended.stdout))


def _measure(task: Callable[[Path], None], folder: Path) -> None:
    import torch
    import transformers

    from orpo_lightning.models import checkpoint, sharding

    torch.distributed.init_process_group("gloo")
    for code in (transformers.OPTForCausalLM, checkpoint, sharding):  # which is no part of what is measured
        assert code is not None
    before = largest = resident("RssAnon")
    is_over = threading.Event()

    def look() -> None:
        nonlocal largest
        while not is_over.wait(0.001):
            largest = max(largest, resident("RssAnon"))

    watch = threading.Thread(target=look)
    watch.start()
    task(folder)
    is_over.set()
    watch.join()
    print(f"\n{SIGN}{largest - before}", flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
