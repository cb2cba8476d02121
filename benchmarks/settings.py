"""What the settings that trade memory for time cost and give, in runs of the command line on the same rows.

    python benchmarks/settings.py --data-folder ../shared/data

Each setting is a fit of smollm2 in a process of its own, in turn with the others, twice: half an hour on two cores for
each set of data. A step's time is held against that of the same step with the default settings; the first, which
compiles and makes the optimizer's state, is not counted. The numbers that it last printed are in docs/speed.md.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from pathlib import Path

from yardstick.environment import ROOT, conditions
from yardstick.measures import spread
from yardstick.quickstart import fit_quickstart
from yardstick.rows import ABOUT_FILES, FILES

SETTINGS = [
    "",
    "--trainer.accumulate_grad_batches=2",
    "--trainer.accumulate_grad_batches=4",
    "--trainer.accumulate_grad_batches=8",
    "--model.policy.compile_layers=true",
    "--model.policy.gradient_checkpointing=true",
    "--trainer.precision=bf16-mixed",
    "--trainer.precision=bf16-true",
    "--model.optimizer.algorithm=torch.optim.Adafactor",
    "--model.optimizer.options.fused=false",
    "--data.num_workers=1",
]
FIXED = [
    *("--model.objective=ORPO", "--data.global_batch_size=8"),
    *("--data.val=null", "--data.max_length=1024", "--model.optimizer.lr=1e-6", "--trainer.num_sanity_val_steps=0"),
    *("--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"),
    *("--summary.prompts=0", "--export.enabled=false"),
]


def main() -> None:
    """Print a table for each set of data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--data", choices=FILES, action="append", help="one of the sets alone")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--steps", type=int, default=5, help="of a run, the first of which is not counted")
    parser.add_argument("--repeats", type=int, default=2, help="an even number: they go there and back")
    options = parser.parse_args()
    print(f"{conditions()}\n{ABOUT_FILES}")
    print(f"{options.model}, ORPO, 8 pairs a step, {options.steps - 1} steps of {options.repeats} runs.")
    for data in options.data or FILES:
        print(f"\n### {data}\n\n{table(options, (options.data_folder / FILES[data]).absolute())}", flush=True)


def table(options: argparse.Namespace, file: Path) -> str:
    """The settings, a line each."""
    shared = [f"--data.train={file}", f"--model.policy.name_or_path={options.model}", *FIXED]
    runs = [
        # there and back: a machine that slows down meanwhile shows
        {setting: fit([*shared, f"--trainer.max_steps={options.steps}", *setting.split()]) for setting in order}
        for order in [SETTINGS, SETTINGS[::-1]] * (options.repeats // 2)
    ]
    lines = [
        "| | time of a step / default | first step, s | peak memory, GB | loss of the last step |",
        "|---|---|---|---|---|",
    ]
    for setting in SETTINGS:
        ratios = [
            float(step["time/step_s"]) / float(default["time/step_s"])
            for run in runs
            for step, default in zip(run[setting][1:], run[""][1:], strict=True)
        ]
        first = statistics.median(float(run[setting][0]["time/step_s"]) for run in runs)
        peak = max(float(run[setting][-1]["memory/peak_gb"]) for run in runs)
        loss = float(runs[0][setting][-1]["train/loss"])
        name = f"`{setting.removeprefix('--').replace('=', ': ')}`" if setting else "default"
        lines.append(f"| {name} | {spread(ratios)} | {first:.1f} | {peak:.2f} | {loss:.4f} |")
    return "\n".join(lines)


def fit(options: list[str]) -> list[dict[str, str]]:
    """The rows of the metrics of a run."""
    with tempfile.TemporaryDirectory() as folder:
        fit_quickstart(options, f"{folder}/run")
        with open(f"{folder}/run/metrics.csv", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if row["time/step_s"]]


if __name__ == "__main__":
    main()
