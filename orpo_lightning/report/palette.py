"""Colours and marks that tell runs apart, also for eyes that see fewer colours.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/) that can be seen on white and on black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orpo_lightning.report.plots import Plot, Trace

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")
_BEFORE = "#808080"


@dataclass(frozen=True)
class Style:
    """How a group of points looks.

    Args:
        color: as ``#rrggbb``.
        symbol: the mark, by plotly's name of it.
    """

    color: str
    symbol: str


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name: the colours in turn, then the same ones with another mark.

    Args:
        names: of runs, or of models.

    Example:
        >>> styles_of(["a", "b"])["b"]
        Style(color='#D55E00', symbol='square')
    """
    return {
        name: Style(_COLORS[i % len(_COLORS)], _SYMBOLS[(i + i // len(_COLORS)) % len(_SYMBOLS)])
        for i, name in enumerate(names)
    }


def style_of(trace: Trace, plot: Plot, runs: Sequence[str]) -> Style:
    """The style of a trace.

    Args:
        trace: what is drawn.
        plot: where.
        runs: names of all runs of the report, which keep their colours in all plots.
    """
    if trace.kind == "front":
        return Style(_BEFORE, "circle")
    if trace.role and len(plot.groups) == 1:  # colour is free to tell the lines of the only run apart
        alone = styles_of(["chosen", "rejected"])
        return alone.get(trace.role, Style(_BEFORE, "circle"))
    return styles_of(runs if trace.group in runs else plot.groups)[trace.group]


def opacity_of(trace: Trace, plot: Plot) -> float:
    """How strongly a trace is drawn: batches scatter, and those of many runs would hide the validation.

    Args:
        trace: what is drawn.
        plot: where.
    """
    if trace.kind == "training":
        return 0.7 if len(plot.groups) == 1 else 0.35
    return 0.3 if trace.kind == "raw" else 1.0
