"""What each idea behind the packed batch gives: operations, time and memory of a training step, rung by rung.

    python benchmarks/ladder.py --data-folder ../shared/data

Every rung trains the same rows to the same loss (the command insists on it), in a process of its own, and the rungs are
climbed and then descended, so that a machine that slows down meanwhile shows. It takes about 40 minutes on two cores;
--quick takes a few and shows that it works. The table of the last run is in benchmarks/ladder.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from counting import CONVENTION, count_flops
from yardstick.environment import ROOT, conditions
from yardstick.measures import matmul_rate, peak_memory, spread
from yardstick.rows import ABOUT_FILES, FILES, tokenized
from yardstick.rungs import OBJECTIVES, RUNGS, Step, steps_of, train

from orpo_lightning import PolicyConfig
from orpo_lightning.models.compilation import compile_layers
from orpo_lightning.models.loading import load_causal_lm
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.sweep.share import cores

TOLERANCE = 1e-4


def main() -> None:
    """Climb and descend, and print the table; or, with --rung, be one rung."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--data", choices=FILES, action="append", help="one of the sets alone")
    parser.add_argument("--objective", choices=OBJECTIVES, action="append", help="one of the objectives alone")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pairs", type=int, default=4, help="of a step; the padded rows of 8 need more than 24 GB")
    parser.add_argument("--steps", type=int, default=3, help="that are timed, each way")
    parser.add_argument("--quick", action="store_true", help="one step of 2 pairs each way")
    parser.add_argument("--rung", choices=RUNGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.steps = 2, 1
    if options.rung:
        print(json.dumps(measure(options)))
        return
    print(f"{conditions()}\n{ABOUT_FILES}")
    print(f"{options.model}, fp32, {options.pairs} pairs a step, {options.steps} steps timed each way.")
    print(f"{CONVENTION}\n")
    for data in options.data or FILES:
        for objective in options.objective or OBJECTIVES:
            climb(data, objective)


def climb(data: str, objective: str) -> None:
    """Measure all rungs up and down, and print their table."""
    found: dict[str, list[dict[str, Any]]] = {rung: [] for rung in RUNGS}
    for rung in [*RUNGS, *reversed(RUNGS)]:
        command = [sys.executable, __file__, *sys.argv[1:], "--data", data, "--objective", objective, "--rung", rung]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if ended.returncode == 0:
            found[rung].append(json.loads(ended.stdout.splitlines()[-1]))
        elif ended.returncode != -signal.SIGKILL:  # the system's answer where there is no memory left
            sys.exit(f"the rung {rung!r} ended with {ended.returncode}")
    print(f"### {data}, {objective}\n")
    print("| | operations, 10^12 | time, s | of the rung above | operations / the machine's rate | peak memory, GB |")
    print("|---|---|---|---|---|---|")
    above: list[float] = []
    for rung, (words, _) in RUNGS.items():
        if len(found[rung]) < 2:
            print(f"| {words} | | killed: not enough memory | | | |")
            continue
        seconds = [each for run in found[rung] for each in run["seconds"]]
        flops, peak = found[rung][0]["flops"], max(run["peak"] for run in found[rung]) / 1e9
        rate = statistics.mean(run["rate"] for run in found[rung])
        share = flops / statistics.mean(seconds) / rate
        # of the same rows, on the way up and on the way down
        ratio = spread([one / other for one, other in zip(seconds, above, strict=True)]) if above else ""
        print(f"| {words} | {flops / 1e12:.3f} | {spread(seconds)} | {ratio} | {share:.0%} | {peak:.2f} |")
        above = seconds
    print(flush=True)
    losses = torch.tensor([run["losses"] for runs in found.values() for run in runs])
    if not torch.allclose(losses, losses[0], rtol=TOLERANCE):
        sys.exit(f"the rungs do not compute the same: losses of the first steps {losses.tolist()}")


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Train a few steps on one rung."""
    torch.set_num_threads(cores())
    (data,), (objective_name,) = options.data[-1:], options.objective[-1:]
    file = str(options.data_folder / FILES[data])
    steps = steps_of(tokenized(file, options.model, options.pairs), options.pairs, options.steps + 2)
    first, timed = steps[:2], steps[2:]
    net = load_causal_lm(PolicyConfig(options.model))
    if options.rung == "compiled":
        compile_layers(net)
    model = LogpModel(net, "padded" if options.rung == "padded" else "packed")
    objective = OBJECTIVES[objective_name]()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=True)
    _, score = RUNGS[options.rung]
    if options.rung != "padded":
        model._route = model._choose_route()

    def taken(step: Step) -> tuple[float, float]:
        start = time.perf_counter()
        loss = train(model, objective, optimizer, step, score).item()
        return time.perf_counter() - start, loss

    losses = [taken(step)[1] for step in first]
    rate = matmul_rate(3.0)
    seconds = [taken(step)[0] for step in timed]
    peak = peak_memory()
    with count_flops() as counter:
        for step in timed:
            taken(step)
    flops = counter.get_total_flops() / len(timed)
    return {"losses": losses, "seconds": seconds, "rate": rate, "peak": peak, "flops": flops}


if __name__ == "__main__":
    main()
