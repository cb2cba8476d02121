"""What the callbacks of a run cost: their time beside that of the training steps.

    python benchmarks/callbacks.py

trains as the quickstart does, without validation and answers, under Lightning's own profiler, which times every call of
every callback. The numbers that it last printed are in docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from lightning.pytorch.profilers import SimpleProfiler
from yardstick.environment import ROOT, conditions

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
    steps = durations[STEP]
    print(f"{options.model}: {len(steps)} training steps of {sum(steps) / len(steps):.2f} s\n")
    print("| callback | ms for each step | share of a step | s in the rest of the run |\n|---|---|---|---|")
    for name, (within, other) in sorted(by_callback(durations).items(), key=lambda each: -each[1][0]):
        print(f"| {name} | {within / len(steps) * 1e3:.2f} | {within / sum(steps):.3%} | {other:.2f} |")
    print(f"\n{conditions()}")


def by_callback(durations: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Seconds of each callback: within the training steps, and in all other calls."""
    seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for action, taken in durations.items():
        if action.startswith("[Callback]"):
            callback, _, hook = action.removeprefix("[Callback]").rpartition(".")
            seconds[callback.partition("{")[0]][hook not in IN_STEPS] += sum(taken)
    return {name: (within, other) for name, (within, other) in seconds.items()}


def fit(model: str, steps: int) -> dict[str, list[float]]:
    """The seconds of each call, by what was called."""
    with tempfile.TemporaryDirectory() as folder:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "orpo_lightning", "fit", "--config", "quickstart"),
                *(f"--model.policy.name_or_path={model}", f"--trainer.max_steps={steps}", "--data.val=null"),
                *("--trainer.num_sanity_val_steps=0", "--summary.prompts=0", "--export.enabled=false"),
                "--trainer.profiler=callbacks.Durations",
                f"--trainer.default_root_dir={folder}/run",
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    told = [line.removeprefix(SIGN) for line in ended.stdout.splitlines() if line.startswith(SIGN)]
    if ended.returncode or not told:
        sys.exit(f"the run did not end well:\n{ended.stdout}")
    durations: dict[str, list[float]] = json.loads(told[0])
    return durations


if __name__ == "__main__":
    main()
