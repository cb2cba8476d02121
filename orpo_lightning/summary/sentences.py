"""What every form of a summary says in the same words."""

from __future__ import annotations

import math
from collections.abc import Iterator

from orpo_lightning.summary.answers import Answer
from orpo_lightning.summary.intervals import LEVEL, RESAMPLES, Interval
from orpo_lightning.summary.run import Speed
from orpo_lightning.summary.words import duration

EXPLANATION = (
    "accuracy: share of pairs whose chosen answer is likelier per token than the rejected one (ties count half). "
    "margin: how much likelier, in mean log-probability. nll_response: of the chosen answers, lower is likelier."
)


def interval_note(pairs: int) -> str:
    """How the intervals came about."""
    return (
        f"{LEVEL:.0%} intervals from {RESAMPLES:,} resamples of these {pairs:,} pairs; they tell how much depends on "
        "the choice of pairs, not how much another seed would change."
    )


def format_value(value: Interval | float, unit: str, sign: str = "") -> Iterator[str]:
    """A value as text, then its interval if it has one.

    Example:
        >>> list(format_value(Interval(0.02, -0.0001, 0.04), "nats/token", sign="+"))
        ['+0.020', '+0.000 to +0.040']
    """
    decimals = 1 if unit.startswith("%") else 3

    def number(part: float) -> str:
        return f"{part:{sign}z.{decimals}f}"

    if isinstance(value, Interval):
        yield number(value.value)
        yield f"{number(value.low)} to {number(value.high)}"
    else:
        yield number(value)


def labelled(first: Answer, last: Answer | None) -> Iterator[tuple[str, Answer]]:
    """The answers with what they are called."""
    yield ("before" if first.step == 0 else "after"), first
    if last is not None:
        yield "after", last


def speed_sentences(speed: Speed) -> Iterator[str]:
    """What a fit took, in short sentences."""
    if speed.steps:
        seconds = speed.step_seconds / speed.steps
        rate = f"{speed.steps:,} steps of {seconds:.{2 if seconds >= 1 else 3}f} s"
        if speed.tokens:
            pairs, tokens = speed.pairs / speed.step_seconds, speed.tokens / speed.step_seconds
            rate += f": {pairs:,.1f} pairs/s, {tokens:,.0f} tokens/s"
        yield rate
        if speed.peak_tflops is not None and speed.saved_by_sharing is not None:
            share = speed.tflop / speed.step_seconds / speed.peak_tflops
            used = (
                f"{speed.tflop / speed.steps:,.3g} * 10^12 operations a step, at {share:.0%} of the hardware's "
                f"{speed.peak_tflops:,.3g} * 10^12 a second; "
                f"shared prompts saved {speed.saved_by_sharing:.0%} of the work"
            )
            if not math.isnan(speed.seconds_waited):
                used += f"; {speed.seconds_waited / speed.step_seconds:.1%} of the time went by waiting for data"
            yield used
    memory = f"; peak memory {speed.peak_gb:.2f} GB" if speed.peak_gb is not None else ""
    yield f"{duration(speed.seconds)} in all{memory}"
