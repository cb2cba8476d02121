"""Plots as figures for papers: one and two columns wide, fonts embedded, without a title."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_lightning.report.contents import Report
from orpo_lightning.report.palette import Style, opacity_of, style_of
from orpo_lightning.report.plots import Axis, Kind, Plot, Trace
from orpo_lightning.report.strength import log_ticks
from orpo_lightning.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {"one_column": 3.25, "two_columns": 6.75}
"""Widths of figures, inches, by what the names of their files say."""
_HEIGHTS = {"one_column": 2.3, "two_columns": 3.2}
_DOTS_PER_INCH = 300
STYLE: dict[Any, Any] = {
    # Type 42: text stays text, and no journal refuses it
    "pdf.fonttype": 42,
    # a dollar sign in the name of a run is no formula
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 6.5,
}
_SYMBOLS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P"}
_LINES: dict[str, Any] = {"": "-", "chosen": "-", "rejected": "--", "before": "--"}
LEGEND: dict[str, Any] = {"frameon": False, "handlelength": 2.0, "columnspacing": 1.0, "labelspacing": 0.3}
_CAPTIONS = "captions.md"
_LETTER, _SAMPLE = 0.05, 0.4
"""Inches that a letter of a legend takes, and the line before it."""


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write each plot of a report as PDF and PNG in each width.

    Args:
        report: whose plots.
        folder: where to; made if it is not there.

    What each shows, and what its bars are over, is in ``captions.md`` beside them.

    Returns:
        The figures, such as ``margin.one_column.pdf``.
    """
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    labels = _labels(report)
    written = []
    for plot in report.plots:
        for width in WIDTHS:
            figure = paper_figure(plot, labels, width)
            for kind in ("pdf", "png"):
                path = folder / f"{plot.key}.{width}.{kind}"
                # a date would make two equal figures differ
                metadata = {"CreationDate": None} if kind == "pdf" else None
                with matplotlib.rc_context(STYLE), whole_file(path) as unfinished:
                    figure.savefig(unfinished, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata)
                written.append(path)
    captions = [f"## {plot.key}\n\n{plot.title}. {plot.reading}\n" for plot in report.plots]
    with whole_file(folder / _CAPTIONS) as unfinished:
        unfinished.write_text("\n".join(captions), encoding="utf-8")
    return written


def paper_figure(plot: Plot, labels: Mapping[str, str], width: str) -> Figure:
    """The figure of a plot.

    Args:
        plot: what to draw, over its first x axis.
        labels: what each run is called, in the order of the report.
        width: a key of ``WIDTHS``.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return _figure(plot, labels, width)


def _figure(plot: Plot, labels: Mapping[str, str], width: str) -> Figure:
    # not pyplot: it keeps figures and may look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    handles = legend_of(plot, labels)
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = max(1, int(WIDTHS[width] / (longest * _LETTER + _SAMPLE)))
    rows = math.ceil(len(handles) / columns)
    figure = Figure(figsize=(WIDTHS[width], _HEIGHTS[width] + 0.13 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    draw_plot(figure.add_subplot(), plot, labels)
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, **LEGEND)
    return figure


def draw_plot(axes: Axes, plot: Plot, labels: Mapping[str, str]) -> None:
    """Draw a plot over its first x axis.

    Args:
        axes: where to.
        plot: what to draw.
        labels: what each run is called, in the order of the report.
    """
    for trace in plot.traces:
        _draw(axes, trace, plot, labels)
    _set_axis(axes.xaxis, plot.x[0], [x for trace in plot.traces for x in trace.x[0]])
    _set_axis(axes.yaxis, plot.y, [])
    for axis, draw_level in ((plot.x[0], axes.axvline), (plot.y, axes.axhline)):
        if axis.level is not None:
            draw_level(axis.level, color="#999999", linewidth=0.6, linestyle=":", zorder=0)


def _labels(report: Report) -> dict[str, str]:
    """What tells each run from the others: what was trained, the seed of repeats, else its name."""
    are_models = len({run.record.model for run in report.runs}) > 1
    trained = [run.label if are_models else f"{run.record.objective} {run.strength}".strip() for run in report.runs]
    seeds = [row.seed for row in report.comparison.rows]
    seeded = [
        f"{each}, seed {seed}" if trained.count(each) > 1 and seed is not None else each
        for each, seed in zip(trained, seeds, strict=True)
    ]
    return {
        run.name: each if seeded.count(each) == 1 else f"{each} ({run.name})"
        for run, each in zip(report.runs, seeded, strict=True)
    }


def _draw(axes: Axes, trace: Trace, plot: Plot, labels: Mapping[str, str]) -> None:
    style = style_of(trace, plot, list(labels))
    line: dict[str, Any] = {"color": style.color, "linestyle": _LINES[trace.role], "alpha": opacity_of(trace, plot)}
    _DRAWERS[trace.kind](axes, trace, style, line)


_Drawer = Callable[["Axes", Trace, Style, dict[str, Any]], None]


def _outline(axes: Axes, trace: Trace, style: Style, line: dict[str, Any]) -> None:
    axes.step(trace.x[0], trace.y, where="post", **line, linewidth=1.1)


def _plain(width: float) -> _Drawer:
    def draw(axes: Axes, trace: Trace, style: Style, line: dict[str, Any]) -> None:
        axes.plot(trace.x[0], trace.y, **line, linewidth=width)

    return draw


def _marked(axes: Axes, trace: Trace, style: Style, line: dict[str, Any]) -> None:
    ends = [_below(trace), _above(trace)] if trace.low else None
    marks: dict[str, Any] = {"marker": _SYMBOLS[style.symbol], "markersize": 4.0, "markeredgewidth": 0.3}
    look = marks | {"elinewidth": 0.7, "capsize": 1.5, "markeredgecolor": "white", "linewidth": 1.1}
    axes.errorbar(trace.x[0], trace.y, yerr=ends, **line, **look)


def _marks_alone(axes: Axes, trace: Trace, style: Style, line: dict[str, Any]) -> None:
    _marked(axes, trace, style, line | {"linestyle": "none"})


_DRAWERS: dict[Kind, _Drawer] = {
    "raw": _plain(0.4),
    "training": _plain(0.8),
    "front": _plain(0.8),
    "validation": _marked,
    "line": _marked,
    "points": _marks_alone,
    "scatter": _marks_alone,
    "steps": _outline,
}


def _below(trace: Trace) -> list[float]:
    return [y - low for y, low in zip(trace.y, trace.low, strict=True)]


def _above(trace: Trace) -> list[float]:
    return [high - y for y, high in zip(trace.y, trace.high, strict=True)]


def _set_axis(drawn: Any, axis: Axis, places: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    drawn.set_label_text(axis.label)
    if axis.is_log:
        drawn.axes.set(**{f"{drawn.axis_name}scale": "log"})
        ticks = log_ticks(min(places), max(places))
        drawn.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        drawn.set_minor_locator(NullLocator())
    if axis.ticks:
        drawn.set_ticks([tick.place for tick in axis.ticks], [tick.text for tick in axis.ticks])
    drawn.grid(alpha=0.3, linewidth=0.4)


def legend_of(plot: Plot, labels: Mapping[str, str]) -> list[Any]:
    """The legend: who the colours are, and which lines of theirs are which.

    Args:
        plot: what is drawn.
        labels: what each run is called, in the order of the report.

    Returns:
        Handles for matplotlib.
    """
    from matplotlib.lines import Line2D

    roles = list(dict.fromkeys(trace.role for trace in plot.traces))
    found = []
    for group in filter(None, plot.groups if len(plot.groups) > 1 else ()):
        first = next(trace for trace in plot.traces if trace.group == group)
        style = style_of(first, plot, list(labels))
        mark = _SYMBOLS[style.symbol] if any(t.kind in _MARKED for t in plot.traces if t.group == group) else None
        found.append(Line2D([], [], color=style.color, marker=mark, markersize=3.6, label=labels.get(group, group)))
    if len(roles) > 1:
        for role in roles:
            first = next(trace for trace in plot.traces if trace.role == role)
            color = style_of(first, plot, list(labels)).color if len(plot.groups) == 1 else "#555555"
            found.append(Line2D([], [], color=color, linestyle=_LINES[role], linewidth=1.1, label=_ROLES[role]))
    kinds = {trace.kind for trace in plot.traces}
    if {"training", "validation"} <= kinds:
        training = "training, running mean" if "raw" in kinds else "training"
        found.append(Line2D([], [], color="#555555", linewidth=0.9, alpha=0.6, label=training))
        found.append(Line2D([], [], color="#555555", linewidth=1.1, marker="o", markersize=3.6, label="validation"))
    return found


_MARKED = ("validation", "points", "scatter", "line")
_ROLES = {"": "after training", "before": "before training", "chosen": "chosen", "rejected": "rejected"}
