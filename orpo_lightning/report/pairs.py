"""What the validation pairs tell one by one: accuracy by length, and how the margins are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orpo_lightning.comparison.runs import Run
from orpo_lightning.report.plots import Axis, Plot, Role, Tick, Trace
from orpo_lightning.summary.gains import FEWEST_PAIRS
from orpo_lightning.summary.intervals import share_interval
from orpo_lightning.summary.pairs import PairMeasures

_MOST_BUCKETS = 5
_BINS = (8, 40)
"""Fewest and most bins of a histogram."""


@dataclass(frozen=True)
class Bucket:
    """Lengths that are looked at together, tokens; both ends belong to it."""

    shortest: int
    longest: int

    def holds(self, tokens: int) -> bool:
        """Whether a response of so many tokens is in it."""
        return self.shortest <= tokens <= self.longest

    def __str__(self) -> str:
        """Its ends.

        Example:
            >>> str(Bucket(3, 9)), str(Bucket(4, 4))
            ('3 to 9', '4')
        """
        return f"{self.shortest} to {self.longest}" if self.shortest < self.longest else f"{self.shortest}"


def length_buckets(lengths: Sequence[int], most: int) -> list[Bucket]:
    """Ranges of lengths with about equally many responses in each; equal lengths are never parted.

    Args:
        lengths: of the responses, tokens.
        most: how many ranges at most.

    Example:
        >>> [str(bucket) for bucket in length_buckets([1, 2, 3, 4, 9, 9], 3)]
        ['1 to 2', '3 to 4', '9']
    """
    ends = np.quantile(lengths, np.arange(1, most + 1) / most, method="inverted_cdf")
    ends = np.unique(ends.astype(np.int64))
    ordered = np.unique(lengths)
    starts = [ordered[0], *(ordered[ordered > end][0] for end in ends[:-1])]
    return [Bucket(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]


def pair_plots(runs: Sequence[Run], of_set: str) -> list[Plot]:
    """Accuracy by the length of the chosen response, and the spread of the margins, after the last validation.

    Args:
        runs: to draw; those without validation pairs are left out.
        of_set: the validation set; empty for the only one.
    """
    pairs = [(run, found) for run in runs if (found := run.last_pairs(of_set))]
    return [_accuracy_by_length(pairs), _margins(pairs, of_set)] if pairs else []


def _accuracy_by_length(pairs: Sequence[tuple[Run, list[PairMeasures]]]) -> Plot:
    lengths = [pair.chosen_tokens for _, each in pairs for pair in each]
    most = min(_MOST_BUCKETS, max(1, min(len(each) for _, each in pairs) // FEWEST_PAIRS))
    buckets = length_buckets(lengths, most)
    # side by side, so that no interval hides another
    offsets = (np.arange(len(pairs)) - (len(pairs) - 1) / 2) * min(0.12, 0.7 / len(pairs))
    return Plot(
        "accuracy_by_length",
        "Accuracy by length",
        "Share of pairs whose chosen answer is the likelier one, by its length in tokens, with 95% intervals; each "
        "range holds about as many pairs. A slope says that the model goes by length.",
        (Axis("tokens of the chosen answer", ticks=tuple(Tick(place, str(b)) for place, b in enumerate(buckets))),),
        Axis("accuracy", "share of pairs", level=0.5),
        tuple(_by_length(run, each, buckets, offset) for (run, each), offset in zip(pairs, offsets, strict=True)),
    )


def _by_length(run: Run, pairs: Sequence[PairMeasures], buckets: Sequence[Bucket], offset: float) -> Trace:
    found = [[pair for pair in pairs if bucket.holds(pair.chosen_tokens)] for bucket in buckets]
    filled = [place for place, each in enumerate(found) if each]
    intervals = [share_interval([p.accuracy for p in found[i]], [p.weight for p in found[i]]) for i in filled]
    are_enough = [len(found[i]) >= FEWEST_PAIRS for i in filled]
    return Trace(
        label="after training",
        kind="points",
        group=run.name,
        runs=((run.name,),),
        x=(tuple(i + float(offset) for i in filled),),
        y=tuple(each.value for each in intervals),
        low=tuple(each.low if enough else float("nan") for each, enough in zip(intervals, are_enough, strict=True)),
        high=tuple(each.high if enough else float("nan") for each, enough in zip(intervals, are_enough, strict=True)),
        notes=tuple(f"{buckets[i]} tokens, {len(found[i]):,} pairs" for i in filled),
    )


def _margins(pairs: Sequence[tuple[Run, list[PairMeasures]]], of_set: str) -> Plot:
    drawn: list[tuple[Run, Role, list[PairMeasures]]] = [(run, "", each) for run, each in pairs]
    if len(pairs) == 1:
        ((run, after),) = pairs
        before = [pair for pair in run.pairs if pair.set == of_set and pair.step == 0]
        if before and any(pair.step for pair in after):
            drawn.insert(0, (run, "before", before))
    edges = bin_edges([pair.margin for _, _, each in drawn for pair in each], max(len(each) for _, each in pairs))
    before_too = " Dashed: before the training." if len(drawn) > len(pairs) else ""
    return Plot(
        "margin_histogram",
        "Spread of the margins",
        f"How many pairs have which margin. Right of 0 the chosen answer is the likelier one.{before_too}",
        (Axis("margin", "nats/token", level=0.0),),
        Axis("share of pairs"),
        tuple(_histogram(run, role, each, edges) for run, role, each in drawn),
    )


def bin_edges(values: Sequence[float], size: int) -> NDArray[np.float64]:
    """Ends of the bins of a histogram that holds all values; 0 is one where there are values on both sides.

    Args:
        values: all of them, of all runs.
        size: how many there are of the largest run, which tells how fine the bins may be.
    """
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    count = int(np.clip(2 * size**0.5, *_BINS))
    width = (high - low) / count
    if low < 0 < high:
        edges = width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)
        edges[0], edges[-1] = min(low, edges[0]), max(high, edges[-1])  # against rounding
        return edges
    return np.linspace(low, high, count + 1)


def _histogram(run: Run, role: Role, pairs: Sequence[PairMeasures], edges: NDArray[np.float64]) -> Trace:
    weight = [pair.weight for pair in pairs]
    counts, _ = np.histogram([pair.margin for pair in pairs], edges, weights=weight)
    shares = counts / sum(weight)
    notes = [
        f"{left:.3g} to {right:.3g} nats/token, {share:.1%} of {len(pairs):,} pairs"
        for left, right, share in zip(edges[:-1], edges[1:], shares, strict=True)
    ]
    return Trace(
        label="before training" if role else "after training",
        kind="steps",
        group=run.name,
        runs=((run.name,),),
        x=(tuple(edges.tolist()),),
        y=(*shares.tolist(), 0.0),
        role=role,
        notes=(*notes, ""),
    )
