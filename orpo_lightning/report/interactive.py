"""A plot as plotly's JavaScript takes it. Colours of text and grid are the style sheet's, which knows the theme."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orpo_lightning.report.palette import opacity_of, style_of
from orpo_lightning.report.plots import Axis, Plot, Points, Trace
from orpo_lightning.report.strength import log_ticks

_DASHES = {"": "solid", "chosen": "solid", "rejected": "dash", "before": "dash"}
_MODES = {
    "raw": "lines",
    "training": "lines",
    "validation": "lines+markers",
    "points": "markers",
    "line": "lines+markers",
    "steps": "lines",
    "front": "lines",
}
_WIDTHS = {"raw": 0.6, "training": 1.2, "validation": 1.4, "line": 1.4, "steps": 1.6, "front": 1.0}


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
    style = style_of(trace, plot, runs)
    numbers = {name: i for i, name in enumerate(runs)}
    drawn: dict[str, Any] = {
        "type": "scatter",
        "mode": _MODES[trace.kind],
        "name": html.escape(trace.label),
        "x": _numbers(trace.x[0]),
        "y": _numbers(trace.y),
        "opacity": opacity_of(trace, plot),
        "line": {"color": style.color, "dash": _DASHES[trace.role], "width": _WIDTHS.get(trace.kind, 1.0)},
        "marker": {"color": style.color, "symbol": style.symbol, "size": 9 if trace.kind == "points" else 7},
        "meta": {
            "runs": [[numbers[name] for name in each] for each in trace.runs],
            "x": [_numbers(each) for each in trace.x],
        },
        "showlegend": trace.kind == "line" and len(plot.groups) > 1,
    }
    if trace.kind == "steps":
        drawn["line"]["shape"] = "hv"
    if trace.kind in ("raw", "front"):
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
    drawn["hovertemplate"] = "%{text}<extra></extra>" if trace.kind == "steps" else _values(plot, trace)
    return drawn


def _hover(trace: Trace, i: int, labels: Mapping[str, str]) -> str:
    """Who a point is of, and what is to be said of it; as text, whatever the names hold."""
    owners = trace.runs[i] if len(trace.runs) > 1 else trace.runs[0]
    of = trace.label if trace.kind == "line" else ", ".join(labels[name] for name in owners)
    parts = [f"<b>{html.escape(of)}</b>"]
    if trace.kind in ("training", "validation", "steps"):
        parts.append(html.escape(trace.label))
    if trace.notes and trace.notes[i]:
        parts.append(html.escape(trace.notes[i]))
    if trace.low and not math.isnan(trace.low[i]):
        parts.append(f"95%: {trace.low[i]:.4g} to {trace.high[i]:.4g}")
    return "<br>".join(parts)


def _values(plot: Plot, trace: Trace) -> str:
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
        "margin": {"l": 56, "r": 8, "t": 8, "b": 44},
        "hovermode": "closest",
        "dragmode": "zoom",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 11},
        "hoverlabel": {"align": "left", "bgcolor": "#202428", "bordercolor": "#808080", "font": {"color": "#ffffff"}},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
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
