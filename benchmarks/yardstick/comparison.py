"""One comparison: both sides train the same steps in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from yardstick.job import Job
from yardstick.worker import Worker

FIRST_STEPS = 3
TOLERANCE = 1e-4
"""Largest difference between the two sides in fp32, relative."""
MATCHED = ("loss", "chosen", "rejected", "gradient_norm")
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Length:
    """How much is measured.

    Args:
        warm_up: steps before the first that is timed.
        timed: pairs of steps that are timed.
        counted: steps after these whose operations are counted.
        rate_s: seconds of matrix products, before and after the timed steps.
    """

    warm_up: int
    timed: int
    counted: int
    rate_s: float

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.warm_up + self.timed + self.counted


class LossesDifferError(Exception):
    """The two sides do not compute the same, and nothing else that was measured means anything."""


def compare(job: Job, length: Length, folder: Path, threads: int, trl: Path) -> dict[str, Any]:
    """Train both sides in turn, A B A B, and measure.

    Raises:
        LossesDifferError: the first losses differ.
        WorkerEndedError: a side ended by itself.
    """
    with (
        Worker("trl", job, folder, threads, trl) as theirs,
        Worker("ours", job, folder, threads) as ours,
    ):
        theirs.ready()
        expected = ours.ready()["loss"]
        before = ours.ask("rate", seconds=length.rate_s)["rate"] if length.rate_s else None
        steps: list[tuple[Report, Report]] = []
        while len(steps) < length.warm_up + length.timed:
            steps.append((ours.ask("step"), theirs.ask("step")))
            first = first_values(steps, expected, job)
            check_losses(first)
        after = ours.ask("rate", seconds=length.rate_s)["rate"] if length.rate_s else None
        counted = [(ours.ask("count"), theirs.ask("count")) for _ in range(length.counted)]
    timed = steps[length.warm_up :]
    return {
        "date": date.today().isoformat(),
        "setting": job.setting.name,
        "in_words": job.setting.in_words,
        "matched": in_words(job, len(first)),
        "first": first,
        "useful_flops": [ours["useful_flops"] for ours, _ in timed],
        "matmul_rate": [before, after] if length.rate_s else [],
        "ours": _measured([ours for ours, _ in timed], [ours for ours, _ in counted]),
        "trl": _measured([theirs for _, theirs in timed], [theirs for _, theirs in counted]),
    }


def _measured(timed: Sequence[Report], counted: Sequence[Report]) -> dict[str, Any]:
    return {
        "seconds": [step["seconds"] for step in timed],
        "cpu_seconds": [step["cpu_seconds"] for step in timed],
        "flops": [step["flops"] for step in counted],
        "peak_bytes": timed[-1]["peak_bytes"],  # before the counting, which takes some itself
    }


def first_values(
    steps: Sequence[tuple[Report, Report]], expected: float | None, job: Job
) -> list[dict[str, tuple[float, float]]]:
    """What must agree, ours and TRL's, of each of the first steps.

    Args:
        steps: what both sides reported.
        expected: the loss of TRL's first step by our code, where ours is another one.
        job: what was trained.
    """
    if job.is_same_loss:
        return [{name: (ours[name], theirs[name]) for name in MATCHED} for ours, theirs in steps[:FIRST_STEPS]]
    ours, theirs = steps[0]
    assert expected is not None
    # of another loss is the gradient another one, too
    return [{name: ({**ours, "loss": expected}[name], theirs[name]) for name in MATCHED if name != "gradient_norm"}]


def check_losses(first: Sequence[Mapping[str, tuple[float, float]]]) -> None:
    """Insist that both sides compute the same.

    Raises:
        LossesDifferError: they do not; names step, value and both numbers.
    """
    wrong = [
        f"step {number}, {name}: ours {ours:.7g}, TRL's {theirs:.7g}"
        for number, values in enumerate(first, start=1)
        for name, (ours, theirs) in values.items()
        if not difference(ours, theirs) <= TOLERANCE
    ]
    if wrong:
        raise LossesDifferError(
            f"THE TWO SIDES DO NOT COMPUTE THE SAME (relative tolerance {TOLERANCE:g}, fp32): {'; '.join(wrong)}"
        )


def difference(ours: float, theirs: float) -> float:
    """How far two numbers are apart, relative to the larger."""
    return abs(ours - theirs) / max(abs(ours), abs(theirs), 1e-12)


def in_words(job: Job, steps: int) -> str:
    """What was held against what."""
    what = (
        "loss, norm of the gradient, and mean log-probabilities of the chosen and the rejected responses, "
        f"first {steps} steps"
    )
    if job.objective != "orpo" or job.setting.micro_batch == job.setting.pairs:
        return what
    if job.is_same_loss:
        return f"{what}; TRL's likelihood is then a mean over pairs, so ours trains with nll_mean='sequences'"
    return (
        "loss and mean log-probabilities of the chosen and the rejected responses, first step; TRL's loss is a mean "
        f"over the means of micro-batches of {job.setting.micro_batch}, which our code computes from the same weights "
        "for this check, and ours trains with the mean over all tokens"
    )
