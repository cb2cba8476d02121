"""The picture of the ORPO paper, from a small model: what likelihood alone, odds and probabilities do to both answers.

    make figures

or `python benchmarks/paper_figures.py` trains SmolLM2-135M with SFT, with ORPO of three strengths and with the ratio of
probabilities, on the same batches, and draws four panels after arXiv:2403.07691, figures 3, 7, 9 and 8, into
docs/images/. What of them comes out as in the paper, with intervals over the pairs, goes into docs/paper_figures.md.
Over 24 steps of new pairs the margin of unseen ones went from 0.130 to 0.106 (lambda 1.0): in minutes this model learns
nothing of pairs that it has not seen. So it takes few pairs again and again, and is measured on them and on unseen
ones. The data is hh_rlhf where the folder of --data-folder is there, else the embedded sample. A run that is complete
is not trained again, and one that was stopped goes on; each is an ordinary run in --runs, for `orpo-lightning compare`
and `report`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
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
    *("--data.max_length=192", "--data.max_prompt_length=128", "--data.limit=130"),
    *("--trainer.max_epochs=-1", "--trainer.max_steps=32"),
    # of each set four batches of eight pairs, every eight steps however many epochs that is
    *("--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=8", "--trainer.limit_val_batches=4"),
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
SEEN, UNSEEN = "seen", "unseen"
SETS = {SEEN: "-", UNSEEN: ":"}
"""The pairs that are measured, and how their lines are drawn: those that are trained on, and others."""
SAMPLE = [ROOT / "orpo_lightning" / "data" / "samples" / f"{split}.jsonl" for split in ("train", "validation")]
"""The pairs that come with the package."""
PAGE = ROOT / "docs" / "paper_figures.md"
PICTURE = ROOT / "docs" / "images" / "paper_figures"
ALTERNATIVE = "Log-probabilities under SFT and ORPO, margins by lambda, odds beside probabilities, over the steps"
TOTALS = ("work/total_pairs", "work/total_tflop", "time/total_s")
BLACK, GREY, BLUE, SKY, ORANGE = "#000000", "#888888", "#0072B2", "#56B4E9", "#D55E00"
"""Of Okabe and Ito: told apart by the colour-blind too."""
ROLES = {"chosen": BLUE, "rejected": ORANGE}
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
        is_above: whether the paper has it above 0.
        differences: it, nats/token, over the pairs of each set.
    """

    figure: str
    text: str
    measured: str
    is_above: bool
    differences: dict[str, Interval]

    def verdict(self, of_set: str) -> str:
        """Whether it came out on a set."""
        found = self.differences[of_set]
        if not found.excludes_zero:
            return "no clear difference"
        return "as in the paper" if (found.value > 0) is self.is_above else "the other way round"


def main() -> None:
    """Train what is missing, then draw and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper_figures", help="where the runs are")
    parser.add_argument("--out", type=Path, default=PICTURE, help="of the picture, without .png and .pdf")
    parser.add_argument("--page", type=Path, default=PAGE, help="of the verdicts")
    options, of_fit = parser.parse_known_args()
    files = [options.data_folder / "hh_rlhf" / f"{split}.jsonl.gz" for split in ("train", "test")]
    is_there = all(file.is_file() for file in files)
    seen, unseen = map(str, files if is_there else SAMPLE)
    data = [f"--data.train={seen}", f"--data.val={json.dumps({SEEN: seen, UNSEEN: unseen})}"]
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
            True,
            differences(f"{role}_mean", (sft, first), (sft, last)),
        )
    yield Claim(
        "7",
        "ORPO widens the margin that SFT leaves",
        "margin, ORPO 1.0 less SFT",
        True,
        differences("margin", (sft, last), (strong, last)),
    )
    for role, is_above in (("chosen", True), ("rejected", False)):
        yield Claim(
            "7",
            f"ORPO {'raises' if is_above else 'lowers'} the log-probability of the {role} answers",
            f"{role}, ORPO 1.0, after less before",
            is_above,
            differences(f"{role}_mean", (strong, first), (strong, last)),
        )
    for less, more, what in ((weak, middle, "0.5 less 0.1"), (middle, strong, "1.0 less 0.5")):
        gain = differences("margin", (less, last), (more, last))
        yield Claim("9", "a larger lambda widens the margin", f"margin, ORPO {what}", True, gain)
    yield Claim(
        "8",
        "the ratio of probabilities drives the rejected answers further down than that of odds",
        "rejected, ratio of probabilities less odds, lambda 1.0",
        False,
        differences("rejected_mean", (strong, last), (ratio, last)),
    )


def first(run: Run, of_set: str) -> list[PairMeasures]:
    """The pairs of a set before the first step."""
    return [pair for pair in run.pairs if pair.set == of_set and pair.step == 0]


def last(run: Run, of_set: str) -> list[PairMeasures]:
    """The pairs of a set after the last step."""
    return run.last_pairs(of_set)


Measured = tuple[Run, Callable[[Run, str], list[PairMeasures]]]
"""A run, and when."""


def differences(measure: str, before: Measured, after: Measured) -> dict[str, Interval]:
    """The mean difference in a measure over the same pairs, with its interval, of each set."""
    return {
        of_set: paired_bootstrap(
            *([getattr(pair, measure) for pair in when(run, of_set)] for run, when in (before, after))
        ).gain
        for of_set in SETS
    }


def draw(runs: dict[str, Run], out: Path) -> None:
    """Draw the four panels, as png and pdf."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.75, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(2, 2)
        sft, _, _, strong, ratio = (runs[name] for name in OBJECTIVES)
        of_answers = (panels[0][0], panels[0][1], panels[1][1])
        for axes, title, run in (
            (panels[0][0], "(a) SFT (as figure 3)", sft),
            (panels[0][1], "(b) ORPO, lambda 1.0 (as figure 7); lines as in (a)", strong),
        ):
            for role, color in ROLES.items():
                for of_set, style in SETS.items():
                    name = f"{role}, {of_set} pairs" if run is sft else ""  # once: the panel beside it has no room
                    plot(axes, run, f"val/{of_set}/logps_mean/{role}", name, color, style)
            label(axes, title, "log-probability, nats/token")
        for name, color in (("orpo-1.0", BLACK), ("orpo-0.5", BLUE), ("orpo-0.1", SKY), ("sft", GREY)):
            run = runs[name]
            for of_set, style in SETS.items():
                plot(panels[1][0], run, f"val/{of_set}/pref/margins", said_of(run, of_set), color, style)
        label(panels[1][0], "(c) margin by lambda (as figure 9); dotted: unseen", "chosen less rejected, nats/token")
        for run, what, style in ((strong, "odds", "-"), (ratio, "probabilities", "--")):
            for role, color in ROLES.items():
                plot(panels[1][1], run, f"val/{SEEN}/logps_mean/{role}", f"{role}, {what}", color, style)
        label(panels[1][1], "(d) odds, probabilities (as figure 8); seen pairs", "log-probability, nats/token")
        low = min(axes.get_ylim()[0] for axes in of_answers)
        high = max(axes.get_ylim()[1] for axes in of_answers)
        for axes in of_answers:
            axes.set_ylim(low, high)
        out.parent.mkdir(parents=True, exist_ok=True)
        for kind in ("png", "pdf"):
            # a date would make two equal pictures differ
            metadata = {"CreationDate": None} if kind == "pdf" else None
            figure.savefig(out.with_suffix(f".{kind}"), dpi=200, metadata=metadata)


def said_of(run: Run, of_set: str) -> str:
    """What the legend says of a run; of the unseen pairs nothing, whose lines have the same colours."""
    return f"{run.record.objective} {run.strength}".strip() if of_set == SEEN else ""


def plot(axes: Axes, run: Run, measure: str, name: str, color: str, style: str) -> None:
    """Draw a measure of the validations of a run."""
    series = run.series[measure]
    axes.plot(series.steps, series.values, style, color=color, marker="o", markersize=2.5, linewidth=1.2, label=name)


def label(axes: Axes, title: str, unit: str) -> None:
    """Say what a panel shows."""
    axes.set_title(title, loc="left")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3, linewidth=0.4)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="best")


def page(runs: dict[str, Run], data: str, options: Sequence[str]) -> str:
    """What came out, as Markdown.

    Args:
        runs: by name.
        data: what they trained on, in words.
        options: what was given to fit besides.
    """
    one = next(iter(runs.values()))
    said, pairs = one.settings, one.data_report["train"]["kept"]
    text = (
        "Written by `make figures` (`python benchmarks/paper_figures.py`), after arXiv:2403.07691, whose runs are of "
        "OPT-350M on HH-RLHF (figures 3 and 7) and of larger models on UltraFeedback (8 and 9), for whole epochs over "
        f"pairs that are not taken again. Here: {one.record.model}, {one.record.steps} steps of "
        f"{said['data.global_batch_size']} pairs at a learning rate of {said['model.optimizer.lr']:g}, on {data}, rows "
        f"of up to {said['data.max_length']} tokens, seed {said['seed_everything']}. The {pairs} training pairs are "
        f"taken {one.record.steps * said['data.global_batch_size'] / pairs:.1f} times: what so short training teaches "
        f"shows on the pairs that it takes again. Measured on {len(last(one, SEEN))} of those that it trains on (seen) "
        f"and on {len(last(one, UNSEEN))} others (unseen), the same for all; in brackets 95% intervals over these "
        "pairs. It is one seed: how much another one would change is not known."
    )
    verdicts = [
        f"| {each.figure} | {each.text} | {each.measured} | "
        + " | ".join(f"{in_words(each.differences[of_set])}: {each.verdict(of_set)}" for of_set in SETS)
        + " |"
        for each in claims(runs)
    ]
    costs = [f"| {name} | {' | '.join(cost(run))} |" for name, run in runs.items()]
    return "\n".join(
        [
            "# The picture of the paper, here\n",
            f"![{ALTERNATIVE}](images/paper_figures.png)",
            "",
            *textwrap.wrap(text, 120),
            "\n| figure | in the paper | here, nats/token | seen pairs | unseen pairs |\n|---|---|---|---|---|",
            *verdicts,
            "\n| run | pairs | 10^12 operations | minutes | accuracy, seen: before | after | unseen: before | after |\n"
            "|---|---|---|---|---|---|---|---|",
            *costs,
            f"\n{conditions()}" + (f"; further options: `{' '.join(options)}`" if options else "") + "\n",
        ]
    )


def in_words(found: Interval) -> str:
    """An interval, as a cell has it."""
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def cost(run: Run) -> list[str]:
    """What a run took, and what came of it, as cells."""
    trained, tflop, seconds = (run.last(name) or 0.0 for name in TOTALS)
    accuracies = [
        bootstrap([pair.accuracy for pair in when(run, of_set)]).value for of_set in SETS for when in (first, last)
    ]
    return [f"{trained:,.0f}", f"{tflop:,.3g}", f"{seconds / 60:.1f}", *(f"{each:.3f}" for each in accuracies)]


if __name__ == "__main__":
    main()
