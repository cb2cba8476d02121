"""What the callbacks of a run cost: their time beside that of the training steps.

    python benchmarks/callback_costs.py

trains as the quickstart does, without validation and answers, under Lightning's own profiler, which times every call of
every callback. The first step, where things are done for once, counts to the rest of the run; so does a checkpoint, of
which so short a run saves one. The numbers that it last printed are in docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict

from lightning.pytorch.profilers import SimpleProfiler
from yardstick.environment import conditions
from yardstick.quickstart import fit_quickstart

SIGN = "durations: "
STEP = "run_training_batch"
IN_STEPS = {
    *("on_train_batch_start", "on_train_batch_end", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_before_zero_grad"),
}


class Durations(SimpleProfiler):
    """Prints what it timed, where Lightning asks for a report at the end of everything."""

    def describe(self) -> None:
        """Print it."""
        print(f"\n{SIGN}{json.dumps(self.recorded_durations)}", flush=True)


def main() -> None:
    """Print a line for each callback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--model", default="smollm2")
    options = parser.parse_args()
    durations = fit(options.model, options.steps)
    _, *steps = durations[STEP]
    print(f"{options.model}: {len(steps)} training steps after the first, of {sum(steps) / len(steps):.2f} s\n")
    print("| callback | ms for each step | share of a step | s in the rest of the run |\n|---|---|---|---|")
    for name, (within, other) in sorted(by_callback(durations).items(), key=lambda each: -each[1][0]):
        print(f"| {name} | {within / len(steps) * 1e3:.2f} | {within / sum(steps):.3%} | {other:.2f} |")
    print(f"\n{conditions()}")


def by_callback(durations: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Seconds of each callback: within the training steps after the first, and in all other calls."""
    within: dict[str, float] = defaultdict(float)
    other: dict[str, float] = defaultdict(float)
    for action, taken in durations.items():
        if action.startswith("[Callback]"):
            callback, _, hook = action.removeprefix("[Callback]").rpartition(".")
            name = callback.partition("{")[0]
            once = 1 if hook in IN_STEPS else len(taken)
            other[name] += sum(taken[:once])
            within[name] += sum(taken[once:])
    return {name: (within[name], other[name]) for name in within}


def fit(model: str, steps: int) -> dict[str, list[float]]:
    """The seconds of each call, by what was called."""
    options = [
        *(f"--model.policy.name_or_path={model}", f"--trainer.max_steps={steps}", "--data.val=null"),
        *("--trainer.num_sanity_val_steps=0", "--summary.prompts=0", "--export.enabled=false"),
        "--trainer.profiler=callback_costs.Durations",
    ]
    with tempfile.TemporaryDirectory() as folder:
        printed = fit_quickstart(options, f"{folder}/run")
    (told,) = (line.removeprefix(SIGN) for line in printed.splitlines() if line.startswith(SIGN))
    durations: dict[str, list[float]] = json.loads(told)
    return durations


if __name__ == "__main__":
    main()
