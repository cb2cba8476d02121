"""Where the time of a training step goes, by kind of operator, and how fast its products of matrices run.

    python benchmarks/profile_step.py --data-folder ../shared/data

The rate is that of fp32 products of 2048 x 2048 matrices, held for 10 s between the steps. The numbers that it last
printed are in docs/speed.md.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from counting import count_flops
from torch.profiler import ProfilerActivity, profile
from yardstick.environment import ROOT, conditions
from yardstick.measures import matmul_rate
from yardstick.rows import ABOUT_FILES, FILES, tokenized
from yardstick.rungs import OBJECTIVES, Step, as_a_run, steps_of, train

from orpo_lightning import PolicyConfig
from orpo_lightning.models.loading import load_causal_lm
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.work import Counts
from orpo_lightning.sweep.share import cores

PRODUCTS = "products of matrices"
OTHER = "other: autograd, calls"
KINDS = {
    PRODUCTS: ("mm", "addmm", "bmm", "baddbmm"),
    "attention": ("_scaled_dot_product",),
    "optimizer, norm of the gradients, clipping": ("_fused_adamw", "_foreach_", "linalg_vector_norm"),
    "moving: copies, cat, index, fill": ("copy_", "cat", "index", "gather", "fill_", "zero_", "embedding", "scatter"),
    "all other operators: element by element, sums": ("",),
    OTHER: (),
}
"""By how the names of the operators begin; the first that fits."""


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pairs", type=int, default=8, help="of a step")
    parser.add_argument("--steps", type=int, default=3, help="that are profiled, after one that is not")
    options = parser.parse_args()
    torch.set_num_threads(cores())
    print(f"{conditions()}\n{ABOUT_FILES}")
    print(f"{options.model}, fp32, {options.pairs} pairs a step, {options.steps} steps.")
    for data in FILES:
        for objective in OBJECTIVES:
            print(f"\n### {data}, {objective}\n\n{shares(options, data, objective)}", flush=True)


def shares(options: argparse.Namespace, data: str, objective: str) -> str:
    """The table of a kind of step."""
    rows = tokenized(str(options.data_folder / FILES[data]), options.model, options.pairs)
    first, *others = steps_of(rows, options.pairs, options.steps + 1)
    model, kind = LogpModel(load_causal_lm(PolicyConfig(options.model)), "packed"), OBJECTIVES[objective]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def take(steps: Sequence[Step]) -> float:
        start = time.perf_counter()
        for step in steps:
            train(model, kind, optimizer, step, as_a_run)
        return time.perf_counter() - start

    take([first])
    rate = matmul_rate(10.0)
    unprofiled = take(others)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        slowed = take(others) / unprofiled
    with count_flops() as counter:
        take(others)
    useful = sum(model.size.flops(Counts.of(batch, kind.needs_prompt_logps)) for _, batch in others)
    seconds: Counter[str] = Counter()
    for event in profiled.key_averages():
        name = event.key.removeprefix("aten::")
        seconds[_kind(name) if name != event.key else OTHER] += event.self_cpu_time_total / 1e6
    flops: Counter[str] = Counter()
    for operator, count in counter.get_flop_counts()["Global"].items():
        flops[_kind(str(operator).removeprefix("aten."))] += count
    lines = [
        f"| {kind} | {seconds[kind] / seconds.total():.1%} | "
        + (f"{flops[kind] / seconds[kind] / rate:.0%} |" if kind == PRODUCTS else "|")
        for kind in KINDS
    ]
    told = (
        f"{unprofiled / len(others):.2f} s a step without the profiler, and {slowed:.2f} times that with it. Without "
        f"it, the useful operations (none counted twice) make {useful / unprofiled / rate:.0%} of the rate, "
        f"all together {flops.total() / unprofiled / rate:.0%}."
    )
    return "\n".join(["| | share of the time | share of the rate |", "|---|---|---|", *lines, "", told])


def _kind(operator: str) -> str:
    return next(kind for kind, beginnings in KINDS.items() if operator.startswith(beginnings))


if __name__ == "__main__":
    main()
