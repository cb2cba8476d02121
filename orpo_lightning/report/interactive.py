"""A plot as plotly's JavaScript takes it. Colours of text and grid are the style sheet's, which knows the theme."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orpo_lightning.report.palette import opacity_of, style_of
from orpo_lightning.report.plots import Axis, Kind, Plot, Points, Trace
from orpo_lightning.report.strength import log_ticks

_DASHES = {"": "solid", "chosen": "solid", "rejected": "dash", "before": "dash"}


@dataclass(frozen=True)
class _Look:
    """How a kind of trace is drawn.

    Args:
        mode: plotly's word for it.
        width: of the line.
        size: of the marks.
        shape: of the line between two points.
        is_answering: whether hovering tells what it is.
        is_of_group: whether its colour tells a group of runs, which the legend names and hovering too.
        is_told: whether hovering tells what its points are called.
        has_values: whether hovering tells the values, which the notes of other kinds do.
    """

    mode: str
    width: float = 1.0
    size: int = 7
    shape: str = "linear"
    is_answering: bool = True
    is_of_group: bool = False
    is_told: bool = False
    has_values: bool = True


_LOOKS: dict[Kind, _Look] = {
    "raw": _Look("lines", 0.6, is_answering=False),
    "training": _Look("lines", 1.2, is_told=True),
    "validation": _Look("lines+markers", 1.4, is_told=True),
    "points": _Look("markers", size=9),
    "scatter": _Look("markers", size=8, is_of_group=True),
    "line": _Look("lines+markers", 1.4, is_of_group=True),
    "steps": _Look("lines", 1.6, shape="hv", is_told=True, has_values=False),
    "front": _Look("lines", is_answering=False),
}
_BUTTONS = 26
"""Pixels above a plot, where its buttons do not lie over points."""
_HIGHEST_LEGEND = 0.2
"""Share of the height of a plot that its legend may take; the rest is scrolled to."""


def figure_of(plot: Plot, runs: Sequence[str], labels: Mapping[str, str]) -> dict[str, Any]:
    """The data and layout of a plot, and beside them the x axes that it offers.

    Args:
        plot: what to draw.
        runs: names of all runs of the report.
        labels: what is said of each run on hovering.
    """
    return {
        "key": plot.key,
        "data": [_trace(trace, plot, runs, labels) for trace in plot.traces],
        "layout": _layout(plot),
        "axes": [axis.label for axis in plot.x],
    }


def _trace(trace: Trace, plot: Plot, runs: Sequence[str], labels: Mapping[str, str]) -> dict[str, Any]:
    style, look = style_of(trace, plot, runs), _LOOKS[trace.kind]
    numbers = {name: i for i, name in enumerate(runs)}
    drawn: dict[str, Any] = {
        "type": "scatter",
        "mode": look.mode,
        "name": html.escape(trace.label),
        "x": _numbers(trace.x[0]),
        "y": _numbers(trace.y),
        "opacity": opacity_of(trace, plot),
        "line": {"color": style.color, "dash": _DASHES[trace.role], "width": look.width, "shape": look.shape},
        "marker": {"color": style.color, "symbol": style.symbol, "size": look.size},
        "meta": {
            "kind": trace.kind,
            "runs": [[numbers[name] for name in each] for each in trace.runs],
            "x": [_numbers(each) for each in trace.x],
        },
        "showlegend": look.is_of_group and len(plot.groups) > 1,
    }
    if not look.is_answering:
        return drawn | {"hoverinfo": "skip"}
    if any(not math.isnan(end) for end in trace.low):
        ends = {
            "array": _numbers([high - y for high, y in zip(trace.high, trace.y, strict=True)]),
            "arrayminus": _numbers([y - low for low, y in zip(trace.low, trace.y, strict=True)]),
        }
        drawn["error_y"] = {"type": "data", "symmetric": False, "color": style.color, "thickness": 1, "width": 3} | ends
    drawn["text"] = (
        [_hover(trace, i, labels) for i in range(len(trace.y))]
        if trace.notes or len(trace.runs) > 1
        else (_hover(trace, 0, labels))
    )
    drawn["hovertemplate"] = _values(plot) if look.has_values else "%{text}<extra></extra>"
    return drawn


def _hover(trace: Trace, i: int, labels: Mapping[str, str]) -> str:
    """Who a point is of, and what is to be said of it; as text, whatever the names hold."""
    look = _LOOKS[trace.kind]
    owners = trace.runs[i] if len(trace.runs) > 1 else trace.runs[0]
    names = [", ".join(labels[name] for name in owners)]
    who, *more = map(html.escape, [trace.label, *names] if look.is_of_group else names)
    parts = [f"<b>{who}</b>", *more]
    if look.is_told:
        parts.append(html.escape(trace.label))
    if trace.notes and trace.notes[i]:
        parts.append(html.escape(trace.notes[i]))
    if trace.low and not math.isnan(trace.low[i]):
        parts.append(f"95%: {trace.low[i]:.4g} to {trace.high[i]:.4g}")
    return "<br>".join(parts)


def _values(plot: Plot) -> str:
    y = f"{plot.y.title}: %{{y:.4~g}} {plot.y.unit}"
    x = "" if plot.x[0].ticks else "<br>%{xaxis.title.text}: %{x:,.6~g}"
    return f"%{{text}}<br>{y}{x}<extra></extra>"


def _layout(plot: Plot) -> dict[str, Any]:
    lines = []
    if plot.y.level is not None:
        lines.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": plot.y.level, "y1": plot.y.level})
    if plot.x[0].level is not None:
        lines.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": plot.x[0].level, "x1": plot.x[0].level})
    return {
        "xaxis": _axis(plot.x[0], [x for trace in plot.traces for x in trace.x[0]]),
        "yaxis": _axis(plot.y, []) | {"automargin": True},
        "shapes": [
            line | {"layer": "below", "line": {"color": "#808080", "width": 1, "dash": "dot"}} for line in lines
        ],
        "margin": {"l": 56, "r": 8, "t": _BUTTONS, "b": 44},
        "hovermode": "closest",
        "dragmode": "zoom",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 11},
        "hoverlabel": {"align": "left", "bgcolor": "#202428", "bordercolor": "#808080", "font": {"color": "#ffffff"}},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "maxheight": _HIGHEST_LEGEND},
    }


def _axis(axis: Axis, places: Sequence[float]) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "title": {"text": html.escape(axis.label), "standoff": 6, "font": {"size": 11}},
        "zeroline": False,
        "showline": True,
        "linecolor": "#808080",
        "gridcolor": "rgba(128,128,128,0.16)",
        "ticks": "outside",
        "ticklen": 4,
    }
    if axis.ticks:
        ticks = [(tick.place, html.escape(tick.text)) for tick in axis.ticks]
    elif axis.is_log:
        ticks = [(value, f"{value:g}") for value in log_ticks(min(places), max(places))]
    else:
        return drawn
    values, texts = zip(*ticks, strict=True)
    return drawn | {
        "type": "log" if axis.is_log else "linear",
        "tickmode": "array",
        "tickvals": list(values),
        "ticktext": list(texts),
    }


def _numbers(values: Points | Sequence[float]) -> list[float | None]:
    """Values as JSON has them: seven digits, and none for what is no number."""
    return [float(f"{value:.7g}") if math.isfinite(value) else None for value in values]
