"""The picture of the ORPO paper, from a small model: what likelihood alone, odds and probabilities do to both answers.

    python benchmarks/paper_figures.py

trains SmolLM2-135M with SFT, with ORPO of three strengths and with the ratio of probabilities, on the same batches, and
draws four panels after arXiv:2403.07691, figures 3, 7, 9 and 8, into docs/images/. What of them comes out as in the
paper, with intervals over the validation pairs, goes into a page beside it. The data is hh_rlhf where the folder
of --data-folder is there, else the embedded sample. A run that is complete is not trained again, and one that was
stopped goes on; each is an ordinary run in --runs, for `orpo-lightning compare` and `report`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from yardstick.environment import ROOT, conditions

from orpo_lightning.comparison.runs import Run, read_runs
from orpo_lightning.run_folder import RECORD_FILE
from orpo_lightning.summary.intervals import Interval, bootstrap, paired_bootstrap
from orpo_lightning.summary.pairs import PairMeasures
from orpo_lightning.summary.record import read_record

COMMAND = (
    *("fit", "--config=orpo", "--config=model/smollm2", "--model.optimizer.lr=1e-4"),
    *("--data.max_length=192", "--data.max_prompt_length=128", "--trainer.max_epochs=-1", "--trainer.max_steps=48"),
    # eight validation batches of eight pairs, every eight steps however many epochs that is
    *("--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=8", "--trainer.limit_val_batches=8"),
    *("--checkpoint.every_n_steps=16", "--checkpoint.monitor=null", "--export.enabled=false", "--summary.prompts=0"),
)
"""What all runs have in common."""

OBJECTIVES = {
    "sft": ("SFT",),
    "orpo-0.1": ("ORPO", "--model.objective.lambda_=0.1"),
    "orpo-0.5": ("ORPO", "--model.objective.lambda_=0.5"),
    "orpo-1.0": ("ORPO", "--model.objective.lambda_=1.0"),
    "ratio-1.0": ("ProbabilityRatio", "--model.objective.lambda_=1.0"),
}
"""What is trained, by the name of the run."""
PAGE = ROOT / "docs" / "paper_figures.md"
PICTURE = ROOT / "docs" / "images" / "paper_figures"
ALTERNATIVE = "Log-probabilities under SFT and ORPO, margins by lambda, odds beside probabilities"
TOTALS = ("work/total_pairs", "work/total_tflop", "time/total_s")
BLACK, GREY, BLUE, SKY, ORANGE = "#000000", "#888888", "#0072B2", "#56B4E9", "#D55E00"
"""Of Okabe and Ito: told apart by the colour-blind too."""
STYLE: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Claim:
    """Something that a figure of the paper shows, and what came out here.

    Args:
        figure: which one.
        text: what it shows.
        measured: what it comes down to.
        difference: that, over the validation pairs, in nats/token.
        is_above: whether the paper's has it above 0.
    """

    figure: str
    text: str
    measured: str
    difference: Interval
    is_above: bool

    @property
    def verdict(self) -> str:
        """Whether it came out."""
        if not self.difference.excludes_zero:
            return "no clear difference"
        return "as in the paper" if (self.difference.value > 0) is self.is_above else "the other way round"


def main() -> None:
    """Train what is missing, then draw and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper_figures", help="where the runs are")
    parser.add_argument("--out", type=Path, default=PICTURE, help="of the picture, without .png and .pdf")
    parser.add_argument("--page", type=Path, default=PAGE, help="of the verdicts")
    options, of_fit = parser.parse_known_args()
    folder = options.data_folder / "hh_rlhf"
    files = [folder / f"{split}.jsonl.gz" for split in ("train", "test")]
    is_there = all(file.is_file() for file in files)
    data = [
        f"--data.{part}={file if is_there else 'sample'}" for part, file in zip(("train", "val"), files, strict=True)
    ]
    for name, objective in OBJECTIVES.items():
        train(options.runs / name, objective, [*data, *of_fit])
    runs = {run.name: run for run in read_runs([str(options.runs / name) for name in OBJECTIVES])}
    draw(runs, options.out)
    about = "hh_rlhf (harmless-base)" if is_there else "the embedded sample"
    text = page(runs, about, of_fit)
    options.page.write_text(text, encoding="utf-8")
    print(text)


def train(folder: Path, objective: Sequence[str], options: Sequence[str]) -> None:
    """Train one of the runs, unless it is complete.

    Args:
        folder: of the run.
        objective: its class and arguments.
        options: further options of fit.

    Raises:
        SystemExit: the training has failed.
    """
    record = read_record(folder / RECORD_FILE)
    if record is not None and record.status == "complete":
        return
    name, *arguments = objective
    command = [*COMMAND, f"--model.objective={name}", *arguments, *options, f"--trainer.default_root_dir={folder}"]
    print("orpo-lightning", *command, flush=True)
    ended = subprocess.run([sys.executable, "-m", "orpo_lightning", *command, "--ckpt_path=last"], check=False)
    if ended.returncode:
        sys.exit(ended.returncode)


def claims(runs: dict[str, Run]) -> Iterator[Claim]:
    """What the four figures of the paper show, measured here."""
    sft, weak, middle, strong, ratio = (runs[name] for name in OBJECTIVES)
    for role in ("chosen", "rejected"):
        yield Claim(
            "3",
            f"SFT raises the log-probability of the {role} answers",
            f"{role}, SFT, after less before",
            difference(first(sft), last(sft), f"{role}_mean"),
            True,
        )
    yield Claim(
        "7",
        "ORPO widens the margin that SFT leaves",
        "margin, ORPO 1.0 less SFT",
        difference(last(sft), last(strong), "margin"),
        True,
    )
    yield Claim(
        "7",
        "under ORPO the rejected answers become less likely",
        "rejected, ORPO 1.0, after less before",
        difference(first(strong), last(strong), "rejected_mean"),
        False,
    )
    for less, more, what in ((weak, middle, "0.5 less 0.1"), (middle, strong, "1.0 less 0.5")):
        gain = difference(last(less), last(more), "margin")
        yield Claim("9", "a larger lambda widens the margin", f"margin, {what}", gain, True)
    yield Claim(
        "8",
        "the ratio of probabilities drives the rejected answers further down than that of odds",
        "rejected, ratio of probabilities less odds, lambda 1.0",
        difference(last(strong), last(ratio), "rejected_mean"),
        False,
    )


def first(run: Run) -> list[PairMeasures]:
    """The validation pairs before the first step."""
    return [pair for pair in run.pairs if pair.step == 0]


def last(run: Run) -> list[PairMeasures]:
    """The validation pairs after the last step."""
    return run.last_pairs("")


def difference(before: Sequence[PairMeasures], after: Sequence[PairMeasures], measure: str) -> Interval:
    """The mean difference in a measure over the same pairs, with its interval."""
    values = [[getattr(pair, measure) for pair in pairs] for pairs in (before, after)]
    return paired_bootstrap(*values).gain


def draw(runs: dict[str, Run], out: Path) -> None:
    """Draw the four panels, as png and pdf."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.75, 5.0), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(2, 2)
        sft, _, _, strong, ratio = (runs[name] for name in OBJECTIVES)
        top = (panels[0][0], "(a) SFT (as figure 3)", sft), (panels[0][1], "(b) ORPO, lambda 1.0 (as figure 7)", strong)
        for axes, title, run in top:
            for role, color in (("chosen", BLUE), ("rejected", ORANGE)):
                plot(axes, run, f"val/logps_mean/{role}", role, color)
            label(axes, title, "log-probability, nats/token")
        low = min(axes.get_ylim()[0] for axes, _, _ in top)
        high = max(axes.get_ylim()[1] for axes, _, _ in top)
        for axes, _, _ in top:
            axes.set_ylim(low, high)
        for name, color in (("orpo-0.1", SKY), ("orpo-0.5", BLUE), ("orpo-1.0", BLACK), ("sft", GREY)):
            run = runs[name]
            plot(panels[1][0], run, "val/pref/margins", f"{run.record.objective} {run.strength}".strip(), color)
        label(panels[1][0], "(c) margin by lambda (as figure 9)", "chosen less rejected, nats/token")
        for run, what, style in ((strong, "odds", "-"), (ratio, "probabilities", "--")):
            for role, color in (("chosen", BLUE), ("rejected", ORANGE)):
                plot(panels[1][1], run, f"val/logps_mean/{role}", f"{role}, ratio of {what}", color, style)
        label(panels[1][1], "(d) odds and probabilities (as figure 8)", "log-probability, nats/token")
        out.parent.mkdir(parents=True, exist_ok=True)
        for kind in ("png", "pdf"):
            figure.savefig(
                out.with_suffix(f".{kind}"), dpi=200, metadata={"CreationDate": None} if kind == "pdf" else None
            )


def plot(axes: Axes, run: Run, measure: str, name: str, color: str, style: str = "-") -> None:
    """Draw a measure of the validations of a run."""
    series = run.series[measure]
    axes.plot(series.steps, series.values, style, color=color, marker="o", markersize=3, linewidth=1.2, label=name)


def label(axes: Axes, title: str, unit: str) -> None:
    """Say what a panel shows."""
    axes.set_title(title, loc="left")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3, linewidth=0.4)
    axes.legend(frameon=False)


def page(runs: dict[str, Run], data: str, options: Sequence[str]) -> str:
    """What came out, as Markdown.

    Args:
        runs: by name.
        data: what they trained on, in words.
        options: what was given to fit besides.
    """
    one = next(iter(runs.values()))
    said = one.settings
    text = (
        "Written by `python benchmarks/paper_figures.py`, after arXiv:2403.07691, whose runs are of OPT-350M on "
        "HH-RLHF (figures 3 and 7) and of larger models on UltraFeedback (8 and 9), for whole epochs. "
        f"Here: {one.record.model}, {one.record.steps} steps of {said['data.global_batch_size']} pairs at a learning "
        f"rate of {said['model.optimizer.lr']:g}, on {data}, rows of up to {said['data.max_length']} tokens, seed "
        f"{said['seed_everything']}. Measured on the same {len(last(one))} validation pairs for all; in brackets 95% "
        "intervals over these pairs. It is one seed: how much another one would change is not known."
    )
    verdicts = [
        f"| {each.figure} | {each.text} | {each.measured} | {each.difference.value:+.3f} "
        f"({each.difference.low:+.3f} to {each.difference.high:+.3f}) | {each.verdict} |"
        for each in claims(runs)
    ]
    costs = [f"| {name} | {' | '.join(cost(run))} |" for name, run in runs.items()]
    return "\n".join(
        [
            "# The picture of the paper, here\n",
            f"![{ALTERNATIVE}](images/paper_figures.png)",
            "",
            *textwrap.wrap(text, 120),
            "\n| figure | in the paper | here | nats/token | verdict |\n|---|---|---|---|---|",
            *verdicts,
            "\n| run | pairs | 10^12 operations | minutes | accuracy before | after |\n|---|---|---|---|---|---|",
            *costs,
            f"\n{conditions()}" + (f"; further options: `{' '.join(options)}`" if options else "") + "\n",
        ]
    )


def cost(run: Run) -> list[str]:
    """What a run took, and what came of it, as cells."""
    pairs, tflop, seconds = (run.last(name) or 0.0 for name in TOTALS)
    accuracies = [bootstrap([pair.accuracy for pair in pairs]).value for pairs in (first(run), last(run))]
    return [f"{pairs:,.0f}", f"{tflop:,.3g}", f"{seconds / 60:.2g}", *(f"{each:.3f}" for each in accuracies)]


if __name__ == "__main__":
    main()
