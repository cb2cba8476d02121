"""What a plot shows, whoever draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Points = tuple[float, ...]
Role = Literal["", "chosen", "rejected", "before"]
"""What tells the lines of one run in a plot from each other."""
Kind = Literal["raw", "training", "validation", "points", "scatter", "line", "steps", "front"]
"""How a trace is drawn.

``raw`` is a thin line of values that scatter, ``training`` their running mean (or the values, where they are few),
``validation`` and ``line`` a line with a mark at each point, ``points`` marks alone, ``scatter`` marks of several runs,
``steps`` the outline of a histogram, whose x is the left end of each bin and the right end of the last, and ``front`` a
thin line between points of several runs.
"""


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what is written there."""

    place: float
    text: str


@dataclass(frozen=True)
class Axis:
    """One axis.

    Args:
        title: what it measures.
        unit: its unit; empty for none.
        is_log: whether it is logarithmic.
        level: a value to compare with, drawn as a line.
        ticks: what is written where; empty leaves it to the renderer.
    """

    title: str
    unit: str = ""
    is_log: bool = False
    level: float | None = None
    ticks: tuple[Tick, ...] = ()

    @property
    def label(self) -> str:
        """Title and unit.

        Example:
            >>> Axis("margin", "nats/token").label
            'margin (nats/token)'
        """
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Trace:
    """Points of a plot that belong together. NaN is no point.

    Args:
        label: what they are called.
        kind: how they are drawn.
        group: what their colour tells: a run or, where points of several runs are joined, a model.
        runs: whose each point is; of a trace of one run that alone.
        x: the places, for each x axis that the plot offers.
        y: the values.
        low: lower ends of their intervals; empty where there are none.
        high: upper ends.
        role: what tells this from the other traces of its run.
        notes: what is to be said of each point.
    """

    label: str
    kind: Kind
    group: str
    runs: tuple[tuple[str, ...], ...]
    x: tuple[Points, ...]
    y: Points
    low: Points = ()
    high: Points = ()
    role: Role = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """One set of axes.

    Args:
        key: its name for programs, and of the file of a figure.
        title: what it shows.
        reading: how to read it, a sentence.
        x: the x axes that it can be drawn over; the first where nothing else is asked for.
        y: the y axis.
        traces: what is drawn.
        on_hovering: what a page tells besides, where one points at it, a sentence; empty for nothing.
    """

    key: str
    title: str
    reading: str
    x: tuple[Axis, ...]
    y: Axis
    traces: tuple[Trace, ...]
    on_hovering: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of its traces, in their order."""
        return tuple(dict.fromkeys(trace.group for trace in self.traces))
